//! Keeps one stream of a kind for each registration, on the registration's connection. The metrics stream and
//! the stream of each source have a supervisor of their own.
//!
//! The supervisor acts on the current registration, not on its changes: one that came and went
//! between two looks needs no stream.

use std::{future::Future, sync::Arc, time::Duration};

use steadfast::{
    Backpressure, CallCredentials, Link, LinkOptions, SharedConnection, SharedTransport, transport,
};
use steadfast_session::{Advice, CheckedConfig, End, Initiator, Reason, Status};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    query_stream::{Event, QueryProtocol},
    registration::Registered,
};

/// The path of the service.
const SERVICE: &str = "/banyandb.fodc.v1.FODCService/";

/// The time after which the same end of the stream is logged again.
const SAME_END_LOGGED_EVERY: Duration = Duration::from_secs(300);

/// gRPC's code for a method that the peer does not know.
pub(crate) const UNIMPLEMENTED: i32 = 12;

/// The status of a stream, while there is one.
pub(crate) type StreamStatus = watch::Sender<Option<watch::Receiver<Status>>>;

/// Opens the stream of a registration.
pub(crate) trait StreamOpener<C: transport::Connection>: Send + Sync + 'static {
    /// A query of the proxy.
    type Query: Send + 'static;

    /// Opens the stream without waiting, and starts the task that responds on it.
    fn open(&self, registered: &Registered, connection: C) -> OpenStream<C, Self::Query>;
}

/// The task that opens and closes streams of one kind.
pub(crate) struct Supervisor<C, O> {
    pub(crate) registered: watch::Receiver<Option<Registered>>,
    pub(crate) connection: watch::Receiver<Option<C>>,
    pub(crate) opener: O,
    pub(crate) status: Arc<StreamStatus>,
}

/// A stream and the task that responds on it.
pub(crate) struct OpenStream<C: transport::Connection, Q> {
    link: StreamLink<C, Q>,
    responder: TaskTracker,
    cancel: CancellationToken,
}

/// The link of a stream.
pub(crate) type StreamLink<C, Q> = Link<QueryProtocol<Q>, SharedConnection<C>>;

/// The call that opens a stream.
pub(crate) struct StreamCall<'a> {
    /// The name of the method.
    pub(crate) method: &'static str,
    /// The name in logs.
    pub(crate) name: &'static str,
    pub(crate) config: &'a CheckedConfig,
    pub(crate) credentials: &'a CallCredentials,
    pub(crate) backpressure: Arc<Backpressure>,
}

impl<C: transport::Connection, O: StreamOpener<C>> Supervisor<C, O> {
    /// Runs until `cancel`, or until the link of the registration is gone.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let next = cancel.run_until_cancelled(self.next()).await;
            let Some((registered, connection)) = next.flatten() else {
                return;
            };
            let stream = self.opener.open(&registered, connection);
            self.status.send_replace(Some(stream.link.watch()));
            // Not only its loss ends a registration: the next one may be here before this task
            // has seen that.
            let over = self
                .registered
                .wait_for(|now| now.as_ref() != Some(&registered));
            // An error says that the registration's link is gone, and `next` returns None then.
            cancel.run_until_cancelled(over).await;
            // After a cancellation, too: the loop ends at its next turn, with no stream left
            // behind.
            stream.close().await;
            self.status.send_replace(None);
        }
    }

    /// Waits for a registration and returns it with its connection.
    ///
    /// The link publishes a connection before its registration and takes it back before the
    /// registration ends. A connection read between two equal registrations therefore belongs to
    /// them.
    async fn next(&mut self) -> Option<(Registered, C)> {
        loop {
            let registered = self.registered.borrow_and_update().clone();
            let connection = self.connection.borrow_and_update().clone();
            if let (Some(registered), Some(connection)) = (registered, connection)
                && self.registered.borrow().as_ref() == Some(&registered)
            {
                return Some((registered, connection));
            }
            let changed = tokio::select! {
                changed = self.registered.changed() => changed,
                changed = self.connection.changed() => changed,
            };
            changed.ok()?;
        }
    }
}

impl StreamCall<'_> {
    /// Opens the stream and spawns the task that responds on it.
    pub(crate) fn open<C, Q, F>(
        self,
        registered: &Registered,
        connection: C,
        sink: impl FnMut(Event<Q>) + Send + 'static,
        respond: impl FnOnce(StreamLink<C, Q>, CancellationToken) -> F,
    ) -> OpenStream<C, Q>
    where
        C: transport::Connection,
        Q: prost::Message + Default + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut call = transport::Call::new(format!("{SERVICE}{}", self.method));
        call.metadata = registered
            .metadata()
            .expect("an id that cannot be sent is refused at the registration");
        let link = LinkOptions::from(self.config.settings().clone())
            .name(self.name)
            .credentials(self.credentials.clone())
            .default_retry_policy(advice)
            .backpressure(self.backpressure)
            .spawn(
                call,
                SharedTransport::new(connection),
                QueryProtocol::default(),
                sink,
            )
            .expect("the settings were checked");
        // Only a closed link fails to start, and nobody else holds this one.
        link.start().ok();
        let (responder, cancel) = (TaskTracker::new(), CancellationToken::new());
        responder.spawn(respond(link.clone(), cancel.clone()));
        responder.close();
        OpenStream {
            link,
            responder,
            cancel,
        }
    }
}

impl<C: transport::Connection, Q> OpenStream<C, Q> {
    /// Closes the link within its own limit. The responder ends at once.
    async fn close(self) {
        self.cancel.cancel();
        self.link.close().await;
        self.responder.wait().await;
    }
}

/// Stops only for a proxy that does not implement the stream; any other fault may pass.
fn advice(end: &End) -> Option<Advice> {
    match (&end.reason, end.advice) {
        (
            Reason::Status {
                code: UNIMPLEMENTED,
                ..
            },
            _,
        ) => Some(Advice::Stop),
        // The next response is smaller, so waiting would gain nothing.
        (reason, Advice::Wait(None)) if is_too_long(reason) => Some(Advice::Retry),
        (Reason::Status { .. } | Reason::Protocol(_), Advice::Stop | Advice::Refresh) => {
            Some(Advice::Wait(None))
        }
        (
            _,
            Advice::Stop | Advice::Refresh | Advice::Retry | Advice::NextServer | Advice::Wait(_),
        ) => None,
    }
}

/// Returns true if the peer has refused a message because of its length.
///
/// gRPC has one code for all limits, so that the text decides: a refusal because of a rate, a number of calls or
/// the memory of the peer says nothing about the length of a message.
pub(crate) fn is_too_long(reason: &Reason) -> bool {
    const RESOURCE_EXHAUSTED: i32 = 8;
    const TEXTS: [&str; 3] = [
        // grpc-go, grpc-core and our proxy; the originals are of the first.
        "larger than max",
        // grpc-java.
        "exceeds maximum size",
        // grpc-dotnet.
        "exceeds the maximum configured message size",
    ];
    match reason {
        Reason::Status { code, message } => {
            *code == RESOURCE_EXHAUSTED && TEXTS.iter().any(|text| message.contains(text))
        }
        _ => false,
    }
}

/// Logs the ends of the streams of one kind. The registration may live on without one, so that nothing else
/// would say why the proxy misses what the stream carries.
#[derive(Debug)]
pub(crate) struct EndLog {
    stream: &'static str,
    last: Option<(String, Instant)>,
}

impl EndLog {
    pub(crate) fn new(stream: &'static str) -> Self {
        Self { stream, last: None }
    }

    pub(crate) fn log(&mut self, end: &End) {
        let stream = self.stream;
        // The loss of the connection is the registration's to report.
        if end.initiator != Initiator::Peer {
            debug!(%end, stream, "stream ended");
        } else if self.is_news(end) {
            warn!(%end, stream, "stream ended");
        } else {
            debug!(%end, stream, "stream ended again");
        }
    }

    /// Returns true unless the same end was logged a short while ago.
    fn is_news(&mut self, end: &End) -> bool {
        let (text, now) = (end.to_string(), Instant::now());
        let is_repeated = self.last.as_ref().is_some_and(|(last, logged)| {
            *last == text && now.duration_since(*logged) < SAME_END_LOGGED_EVERY
        });
        if !is_repeated {
            self.last = Some((text, now));
        }
        !is_repeated
    }
}

#[cfg(test)]
mod tests;
