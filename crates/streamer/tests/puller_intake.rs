//! A server that takes the changes of a scripted Puller.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    future::IntoFuture as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use steadfast_streamer::{
    Client, Epoch, Filter, Item,
    Operation::{self, Delete, Insert},
    ResyncReason, SegmentLog, StoreOptions, Subscription,
    log::{Log, LogError, MemoryLog},
    server::{PullerOptions, PullerStatus, Server, ServerOptions},
};
use steadfast_wire::puller::{
    ChangeEvent, ClusterTime, PullerEvent, SubscribeRequest,
    puller_service_server::{PullerService, PullerServiceServer},
};
use support::{DATABASE, FailingLog, publish, quick, soon, until};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status};

type Events = mpsc::Sender<Result<PullerEvent, Status>>;

/// A Puller whose every stream is scripted by the test.
struct Puller {
    address: String,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// One stream of a consumer.
struct Call {
    request: SubscribeRequest,
    events: Events,
}

#[derive(Clone)]
struct Service(mpsc::UnboundedSender<Call>);

#[tonic::async_trait]
impl PullerService for Service {
    type SubscribeStream = ReceiverStream<Result<PullerEvent, Status>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (events, stream) = mpsc::channel(4);
        let request = request.into_inner();
        self.0.send(Call { request, events }).ok();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Puller {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, calls) = mpsc::unbounded_channel();
        let serving = tonic::transport::Server::builder()
            .add_service(PullerServiceServer::new(Service(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { address, calls }
    }

    async fn call(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }
}

impl Call {
    async fn send(&self, change: ChangeEvent) {
        let event = PullerEvent {
            progress: String::new(),
            change_event: Some(change),
        };
        soon(self.events.send(Ok(event))).await.unwrap();
    }

    /// Returns the marker of the request, decoded.
    fn after(&self) -> String {
        let progress: steadfast_streamer_core::puller::Progress =
            self.request.after.parse().unwrap();
        format!("{:?}", progress.backends)
    }
}

fn change(time: u32, kind: &str, id: &str, fields: &str) -> ChangeEvent {
    let physical = steadfast_streamer_core::puller::document::physical_id(DATABASE, "users", id);
    let document = format!(
        r#"{{"id":"{physical}","database":"{DATABASE}","collection":"users","collectionHash":"",
        "updatedAt":20,"createdAt":10,"version":{time},{fields}}}"#
    );
    ChangeEvent {
        event_id: format!("{time}-1-aa"),
        database: DATABASE.to_owned(),
        mgo_doc_id: physical,
        op_type: kind.to_owned(),
        full_doc: document.into(),
        cluster_time: Some(ClusterTime { t: time, i: 1 }),
        timestamp: 1_700_000_000_123,
        backend: "b1".to_owned(),
        ..ChangeEvent::default()
    }
}

fn insert(time: u32, id: &str) -> ChangeEvent {
    let fields = format!(r#""data":{{"id":"{id}","n":9007199254740993}}"#);
    change(time, "insert", id, &fields)
}

fn soft_delete(time: u32, id: &str) -> ChangeEvent {
    change(time, "update", id, r#""data":{},"deleted":true"#)
}

async fn serve(puller: &Puller, log: Box<dyn Log>) -> Server {
    serve_with(puller, log, quick().activity_timeout).await
}

async fn serve_with(
    puller: &Puller,
    log: Box<dyn Log>,
    activity_timeout: Option<Duration>,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut from = PullerOptions::new(puller.address.parse().unwrap());
    from.session = quick();
    from.session.activity_timeout = activity_timeout;
    let mut options = ServerOptions::default();
    options.puller = Some(from);
    Server::start(listener, log, options).unwrap()
}

fn on_disk(path: &Path) -> Box<dyn Log> {
    let term = Epoch(uuid::Uuid::new_v4().as_u64_pair().0);
    Box::new(SegmentLog::open(path, &StoreOptions::new(term)).unwrap())
}

async fn subscribe(server: &Server) -> (Client, Subscription) {
    let client = Client::builder(server.address().to_string())
        .link(quick())
        .build()
        .unwrap();
    let subscription = soon(
        client
            .subscribe(DATABASE, "users", Filter::all())
            .into_future(),
    )
    .await
    .unwrap();
    (client, subscription)
}

/// Returns the next changes: operation, document id, data.
async fn changes(subscription: &mut Subscription, count: usize) -> Vec<(Operation, String, Bytes)> {
    let mut changes = Vec::new();
    while changes.len() < count {
        match soon(subscription.next()).await.unwrap().unwrap() {
            Item::Change(change) => {
                let event = change;
                changes.push((event.operation, event.document_id.to_string(), event.data));
            }
            other => panic!("{other:?}"),
        }
    }
    changes
}

async fn until_status(server: &Server, what: &str, holds: impl Fn(&PullerStatus) -> bool) {
    until(what, async || holds(&server.puller().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_puller_reach_subscribers_in_order() {
    let mut puller = Puller::start().await;
    let server = serve(&puller, Box::new(MemoryLog::with_epoch(Epoch(7)))).await;
    let (_client, mut subscription) = subscribe(&server).await;
    let call = puller.call().await;
    assert!(!call.request.coalesce_on_catch_up);
    assert_eq!(call.after(), r#"{"steadfast": "0-0-0000000000000000"}"#);
    let replaced = change(13, "replace", "u1", r#""data":{"id":"u1","n":2}"#);
    let mut hard = change(14, "delete", "u2", r#""data":{}"#);
    hard.full_doc.clear();
    hard.database.clear();
    for change in [
        insert(10, "u1"),
        insert(11, "u2"),
        soft_delete(12, "u1"),
        replaced,
        hard,
        // Unknown here, so that nobody holds it.
        soft_delete(15, "u9"),
        insert(16, "u3"),
    ] {
        call.send(change).await;
    }
    let received = changes(&mut subscription, 5).await;
    let kinds: Vec<_> = received.iter().map(|it| (it.0, it.1.as_str())).collect();
    let expected = [
        (Insert, "u1"),
        (Insert, "u2"),
        (Delete, "u1"),
        (Insert, "u1"),
        (Insert, "u3"),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(
        received[0].2,
        r#"{"createdAt":10,"n":9007199254740993,"updatedAt":20,"version":10}"#
    );
    assert_eq!(
        received[2].2,
        r#"{"createdAt":10,"deleted":true,"updatedAt":20,"version":12}"#
    );
    // Counted after the commit, which subscribers may see earlier.
    until_status(&server, "all are counted", |status| {
        status.counters.appended == 5
    })
    .await;
    let status = server.puller().unwrap();
    let dropped: Vec<_> = status.counters.dropped.into_values().collect();
    assert_eq!(dropped, [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_server_resumes_after_what_it_committed() {
    let directory = tempfile::tempdir().unwrap();
    let mut puller = Puller::start().await;
    let server = serve(&puller, on_disk(directory.path())).await;
    let first = puller.call().await;
    first.send(insert(10, "u1")).await;
    first.send(insert(11, "u2")).await;
    until_status(&server, "both are committed", |status| {
        status.counters.appended == 2
    })
    .await;
    server.drain(Duration::ZERO, "test").await.unwrap();

    let server = serve(&puller, on_disk(directory.path())).await;
    let (_client, mut subscription) = subscribe(&server).await;
    let second = puller.call().await;
    assert_ne!(second.request.consumer_id, first.request.consumer_id);
    assert_eq!(second.after(), r#"{"b1": "11-0-aa"}"#);
    // What it asks for again, and a delete of a document from before the restart.
    second.send(insert(11, "u2")).await;
    second.send(soft_delete(12, "u1")).await;
    let received = changes(&mut subscription, 1).await;
    assert_eq!((received[0].0, received[0].1.as_str()), (Delete, "u1"));
    assert_eq!(server.puller().unwrap().counters.losses, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_the_puller_forgot_are_a_resync() {
    let directory = tempfile::tempdir().unwrap();
    let mut puller = Puller::start().await;
    let server = serve(&puller, on_disk(directory.path())).await;
    let (client, mut subscription) = subscribe(&server).await;
    let first = puller.call().await;
    first.send(insert(10, "u1")).await;
    changes(&mut subscription, 1).await;
    let position = subscription.position().unwrap();
    drop(first);
    let second = puller.call().await;
    second.send(insert(15, "u5")).await;
    // Before the change: its position would hide the loss if the stream ended between them.
    let received = soon(subscription.next()).await.unwrap().unwrap();
    let Item::Resync(resync) = received else {
        panic!("{received:?}");
    };
    assert_eq!(resync.reason, ResyncReason::Damaged);
    assert_eq!(changes(&mut subscription, 1).await[0].1, "u5");
    second.send(insert(16, "u6")).await;
    until_status(&server, "it is committed", |status| {
        status.counters.appended == 3
    })
    .await;
    client.close().await;
    server.drain(Duration::ZERO, "test").await.unwrap();

    // A position from before the loss is refused for good.
    let server = serve(&puller, on_disk(directory.path())).await;
    let client = Client::builder(server.address().to_string())
        .link(quick())
        .build()
        .unwrap();
    let mut late = soon(
        client
            .subscribe(DATABASE, "users", Filter::all())
            .after(position)
            .into_future(),
    )
    .await
    .unwrap();
    let received = soon(late.next()).await.unwrap().unwrap();
    assert!(matches!(received, Item::Resync(_)), "{received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_marker_begins_anew_and_is_a_resync() {
    let mut puller = Puller::start().await;
    let server = serve(&puller, Box::new(MemoryLog::with_epoch(Epoch(7)))).await;
    let (_client, mut subscription) = subscribe(&server).await;
    let first = puller.call().await;
    first.send(insert(10, "u1")).await;
    changes(&mut subscription, 1).await;
    let refusal = Status::out_of_range("the events were trimmed");
    first.events.send(Err(refusal)).await.unwrap();
    let second = puller.call().await;
    assert_eq!(second.after(), r#"{"steadfast": "0-0-0000000000000000"}"#);
    second.send(insert(20, "u2")).await;
    let received = soon(subscription.next()).await.unwrap().unwrap();
    assert!(matches!(received, Item::Resync(_)), "{received:?}");
    assert_eq!(changes(&mut subscription, 1).await[0].1, "u2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_puller_is_dialled_anew_with_another_consumer_id() {
    let mut puller = Puller::start().await;
    let log = Box::new(MemoryLog::with_epoch(Epoch(7)));
    let _server = serve_with(&puller, log, Some(Duration::from_millis(500))).await;
    // Held, so that nothing but silence ends the streams.
    let calls = [
        puller.call().await,
        puller.call().await,
        puller.call().await,
    ];
    let ids = calls
        .each_ref()
        .map(|call| call.request.consumer_id.as_str());
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_does_not_take_its_own_changes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let itself = listener.local_addr().unwrap().to_string();
    let mut from = PullerOptions::new(itself.parse().unwrap());
    from.session = quick();
    let mut options = ServerOptions::default();
    options.puller = Some(from);
    let log = Box::new(MemoryLog::with_epoch(Epoch(7)));
    let server = Server::start(listener, log, options).unwrap();
    until_status(&server, "the server refuses itself", |status| {
        status.link.failed_attempts > 0
    })
    .await;
    publish(server.address(), "users", 0..3, 0).await;
    let status = server.puller().unwrap();
    assert_eq!(status.counters.appended, 0);
    let cause = status.link.cause.to_string();
    assert!(cause.contains("its own changes"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_document_does_not_stop_the_intake() {
    let mut puller = Puller::start().await;
    let server = serve(&puller, Box::new(MemoryLog::with_epoch(Epoch(7)))).await;
    let call = puller.call().await;
    let text = "x".repeat(5 << 20);
    let fields = format!(r#""data":{{"id":"large","text":"{text}"}}"#);
    call.send(change(10, "insert", "large", &fields)).await;
    call.send(insert(11, "u1")).await;
    until_status(&server, "the later one is committed", |status| {
        status.counters.appended == 1 && status.counters.refused == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_pauses_the_intake_and_nothing_is_lost() {
    const MANY: u32 = 2_000;
    let mut puller = Puller::start().await;
    let is_full = Arc::new(AtomicBool::new(true));
    let log = FailingLog {
        log: MemoryLog::with_epoch(Epoch(7)),
        fails: Arc::clone(&is_full),
        failure: || LogError::Full { free: 1, needed: 2 },
    };
    // Shorter than the pause: a link that does not read is no silent Puller.
    let server = serve_with(&puller, Box::new(log), Some(Duration::from_secs(1))).await;
    let call = puller.call().await;
    let text = "x".repeat(4 << 10);
    let sending = async {
        let mut sent = 0;
        for number in 0..MANY {
            let id = format!("u{number}");
            let fields = format!(r#""data":{{"id":"{id}","text":"{text}"}}"#);
            let event = PullerEvent {
                change_event: Some(change(10 + number, "insert", &id, &fields)),
                progress: String::new(),
            };
            let sending = call.events.send(Ok(event));
            if tokio::time::timeout(Duration::from_secs(3), sending)
                .await
                .is_err()
            {
                break;
            }
            sent += 1;
        }
        sent
    };
    let sent = soon(sending).await;
    assert!(
        sent < MANY,
        "the Puller keeps what the log cannot take: {sent}"
    );
    let status = server.puller().unwrap();
    assert!(status.counters.waits_for_space && status.counters.appended == 0);
    let link = status.link;
    assert_eq!(link.generation.0, 1, "the stream was kept: {link:?}");
    is_full.store(false, Ordering::Relaxed);
    until_status(&server, "everything that was sent is committed", |status| {
        status.counters.appended == u64::from(sent) && !status.counters.waits_for_space
    })
    .await;
}

#[tokio::test]
async fn no_timer_tries_again_while_the_disk_is_full() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let mut puller = Puller::start().await;
    let is_full = Arc::new(AtomicBool::new(true));
    let log = FailingLog {
        log: MemoryLog::with_epoch(Epoch(7)),
        fails: Arc::clone(&is_full),
        failure: || {
            ATTEMPTS.fetch_add(1, Ordering::Relaxed);
            LogError::Full { free: 1, needed: 2 }
        },
    };
    let server = serve_with(&puller, Box::new(log), None).await;
    let call = puller.call().await;
    call.send(insert(10, "u1")).await;
    until_status(&server, "the intake waits", |status| {
        status.counters.waits_for_space
    })
    .await;
    tokio::time::pause();
    for _ in 0..600 {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    // The writer is a thread, and looks at the disk in real time.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(ATTEMPTS.load(Ordering::Relaxed), 1);
    assert_eq!(server.puller().unwrap().link.generation.0, 1);
    is_full.store(false, Ordering::Relaxed);
    until_status(&server, "the change is committed", |status| {
        status.counters.appended == 1 && !status.counters.waits_for_space
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_subscribes_are_spread_by_the_backoff() {
    let mut puller = Puller::start().await;
    let _server = serve(&puller, Box::new(MemoryLog::with_epoch(Epoch(7)))).await;
    // Each stream opens first: a client that counts that as success never backs off.
    for code in [
        Code::InvalidArgument,
        Code::Internal,
        Code::PermissionDenied,
    ] {
        let call = puller.call().await;
        call.events
            .send(Err(Status::new(code, "no")))
            .await
            .unwrap();
    }
    let since = std::time::Instant::now();
    for _ in 0..4 {
        let call = puller.call().await;
        call.events.send(Err(Status::internal("no"))).await.unwrap();
    }
    // By now the delay is the longest one, 500 ms less the jitter.
    assert!(
        since.elapsed() > Duration::from_millis(4 * 300),
        "{since:?}"
    );
    assert_eq!(
        puller.call().await.after(),
        r#"{"steadfast": "0-0-0000000000000000"}"#
    );
}
