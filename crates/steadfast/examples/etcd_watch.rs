//! Watches a range of the keys of an etcd, and continues after the last revision seen.
//!
//! ```text
//! cargo run -p steadfast --example etcd_watch 127.0.0.1:2379 first-key end-of-keys
//! cargo run -p steadfast --example etcd_watch https://etcd:2379 a z ca.pem client.pem client.key
//! ```

/// The code that `tonic-prost-build` generates from `watches/etcd.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated"
)]
pub(crate) mod etcd {
    include!("watches/generated/etcdserverpb.rs");
}

use std::error::Error;

use etcd::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion};
use steadfast::{
    LinkOptions, Observed, Resume, Resumed,
    dial::Dialer,
    grpc::{Connection, Grpc},
    session::{ConfigFaults, Liveness},
    tls::TlsOptions,
    transport::Call,
};

// begin user code
/// A range of keys, and the revision to start from; 0 stands for now.
pub(crate) struct Range(WatchCreateRequest);

impl Resume for Range {
    type Request = WatchRequest;
    type Response = WatchResponse;

    fn requests(&mut self) -> Vec<WatchRequest> {
        let request_union = Some(RequestUnion::CreateRequest(self.0.clone()));
        vec![WatchRequest { request_union }]
    }

    fn observe(&mut self, response: &WatchResponse) -> Observed {
        let next = &mut self.0.start_revision;
        if response.canceled {
            *next = response.compact_revision.max(*next);
            return Observed::Restart;
        }
        // The header of a watch that starts in the past is ahead of the events that follow.
        let header = response.header.filter(|_| *next == 0 || !response.created);
        let event = response.events.last().and_then(|event| event.kv.as_ref());
        let sent = header.map_or(*next - 1, |header| header.revision);
        *next = event.map_or(sent, |pair| pair.mod_revision) + 1;
        Observed::New
    }
}

/// Watches a range of keys.
pub(crate) fn watch(
    options: LinkOptions,
    server: Grpc,
    range: WatchCreateRequest,
) -> Result<Resumed<Range, Connection>, ConfigFaults> {
    options.resume(Call::new("/etcdserverpb.Watch/Watch"), server, Range(range))
}
// end user code

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let mut server: Dialer = argument("127.0.0.1:2379").parse()?;
    let range = WatchCreateRequest {
        key: argument("a").into(),
        range_end: argument("z").into(),
        start_revision: 0,
        progress_notify: true,
    };
    let mut tls = TlsOptions::default();
    (tls.ca_file, tls.cert_file) = (
        arguments.next().map(Into::into),
        arguments.next().map(Into::into),
    );
    tls.key_file = arguments.next().map(Into::into);
    if tls != TlsOptions::default() {
        server = server.tls(tls.load(&[b"h2"])?);
    }
    // Without changes, an etcd says nothing for minutes.
    let options = LinkOptions::new().configure(|config| config.liveness = Liveness::Probed);
    let mut responses = watch(options, Grpc::with_dialer(server), range)?;
    while let Some(response) = responses.next().await {
        let response = response?;
        if response.compact_revision > 0 {
            println!(
                "changes before revision {} are lost",
                response.compact_revision
            );
        } else if response.canceled {
            println!("the watch was cancelled: {}", response.cancel_reason);
        }
        for event in response.events {
            let kind = event.r#type();
            let pair = event.kv.unwrap_or_default();
            let key = String::from_utf8_lossy(&pair.key);
            println!("{} {kind:?} {key}", pair.mod_revision);
        }
    }
    Ok(())
}
