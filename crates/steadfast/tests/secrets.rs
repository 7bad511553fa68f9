//! Secrets in the outputs of a link. This test is alone in its binary, as the one in `logging.rs` is.
#![cfg(feature = "grpc")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use steadfast::{
    BearerCommand, BearerFile, CallCredentials, LinkOptions, Metadata,
    grpc::Grpc,
    session::{Advice, Config, State},
    transport::Call,
};
use support::{
    note::{Notes, note, note_sink},
    server::{Responses, Server, path},
    until, within,
};
use tonic::Status;

/// Occurs in every secret of this test.
const SECRET: &str = "hunter2hunter2";

/// Everything that was printed.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts the first call for a moment, then refuses and repeats the token, as careless servers do.
fn careless() -> Server {
    let calls = AtomicU64::new(0);
    Server::start(move |incoming| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        let metadata = incoming.request.metadata();
        let token = metadata.get("authorization").unwrap().to_str().unwrap();
        assert_eq!(token, format!("Bearer file-{SECRET}"));
        assert_eq!(metadata.get("api-key").unwrap(), &format!("key-{SECRET}"));
        let refusal = Status::unauthenticated(format!(
            "expired: {token} with key-{SECRET} of own-{SECRET}"
        ));
        async move {
            if !first {
                return Err(refusal);
            }
            let notes = stream::iter([Ok(note(1)), Ok(note(2))]);
            let ended = async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(refusal)
            };
            Ok(Box::pin(notes.chain(stream::once(ended))) as Responses)
        }
    })
}

#[tokio::test]
async fn secrets_appear_in_no_output() {
    let mut output = Output::default();
    let writer = output.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("file-{SECRET}\n")).unwrap();
    let fixed = Metadata::new().with("api-key", format!("key-{SECRET}"));
    let credentials = CallCredentials::from(BearerFile::new(&file)).with_metadata(fixed.unwrap());
    let command = BearerCommand::shell(format!("false --password command-{SECRET}"));
    let call = Call::new(path("Talk"))
        .with_metadata("own", format!("own-{SECRET}"))
        .unwrap();
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(10);
    config.max_backoff = Duration::from_millis(10);
    let options = LinkOptions::from(config).credentials(credentials.clone());
    writeln!(output, "{call:?} {credentials:?} {command:?} {options:?}").unwrap();
    let failure = steadfast::Credentials::metadata(&command, true).await;
    writeln!(output, "{failure:?} {}", failure.as_ref().unwrap_err()).unwrap();
    for (name, value) in [("key", "\n"), ("key-bin", "?"), ("te", "")] {
        let error = Metadata::new().with(name, format!("{value}{SECRET}"));
        writeln!(output, "{error:?} {}", error.as_ref().unwrap_err()).unwrap();
    }

    let server = careless();
    let transport = Grpc::new(server.addr.into());
    let (sink, _events) = note_sink();
    let link = options
        .spawn(call, transport, Notes::sending(1), sink)
        .unwrap();
    within("live", link.connect()).await.unwrap();
    let status = until("refused", &mut link.watch(), |status| {
        status.state == State::Reconnecting && status.consecutive_failures >= 3
    })
    .await;
    assert!(
        status.to_string().contains("expired: *** with *** of ***"),
        "{status}"
    );
    let error = within("an error", link.reconnect()).await.unwrap_err();
    writeln!(output, "{status:?} {status} {error:?} {error}").unwrap();
    writeln!(output, "{:?} {:?}", link.counters(), link.outages()).unwrap();
    link.close().await;
    writeln!(output, "{link:?} {:?}", Advice::Refresh).unwrap();

    let output = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    assert!(
        output.contains("expired: *** with *** of ***"),
        "the refusal is logged"
    );
    assert!(output.contains("h2::"), "everything is logged");
    let leaks: Vec<_> = output
        .lines()
        .filter(|line| line.contains(SECRET))
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}
