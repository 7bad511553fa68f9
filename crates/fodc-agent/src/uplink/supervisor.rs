//! Keeps one metrics stream for each registration, on the registration's connection.
//!
//! The supervisor acts on the current registration, not on its changes: one that came and went
//! between two looks needs no stream.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use steadfast::{Backpressure, Link, LinkOptions, SharedConnection, SharedTransport, transport};
use steadfast_session::{Advice, CheckedConfig, End, Initiator, Reason, Status};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    counters::AtomicCounters,
    message_limit::{self, MessageLimit, RELEASE_LIMIT},
    metrics_stream::{Event, MetricsProtocol},
    query_responder::{Inbox, QueryResponder, Responding},
    registration::Registered,
};

const METHOD: &str = "/banyandb.fodc.v1.FODCService/StreamMetrics";

/// The metadata that names the agent to the proxy.
const AGENT_ID: &str = "agent_id";

/// The same for relays that drop names with an underscore, as nginx does by default.
const AGENT_ID_DASHED: &str = "agent-id";

/// The time after which the same end of the stream is logged again.
const SAME_END_LOGGED_EVERY: Duration = Duration::from_secs(300);

/// Queries that may wait; beyond that the stream is not read.
const QUERIES_WAITING: usize = 16;

/// gRPC's code for a message that is too large for the peer.
const RESOURCE_EXHAUSTED: i32 = 8;

/// gRPC's code for a method that the peer does not know.
const UNIMPLEMENTED: i32 = 12;

/// The status of the metrics stream, while there is one.
pub(crate) type StreamStatus = watch::Sender<Option<watch::Receiver<Status>>>;

/// The task that opens and closes metrics streams.
pub(crate) struct Supervisor<C> {
    pub(crate) registered: watch::Receiver<Option<Registered>>,
    pub(crate) connection: watch::Receiver<Option<C>>,
    pub(crate) config: CheckedConfig,
    pub(crate) responding: Responding,
    pub(crate) status: Arc<StreamStatus>,
}

/// A metrics stream and the task that responds on it.
struct Stream<C: transport::Connection> {
    link: Link<MetricsProtocol, SharedConnection<C>>,
    responder: TaskTracker,
    cancel: CancellationToken,
}

impl<C: transport::Connection> Supervisor<C> {
    /// Runs until `cancel`, or until the link of the registration is gone.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let next = cancel.run_until_cancelled(self.next()).await;
            let Some((registered, connection)) = next.flatten() else {
                return;
            };
            let stream = self.open(&registered, connection);
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

    fn open(&self, registered: &Registered, connection: C) -> Stream<C> {
        let responding = &self.responding;
        // What the proxy says outweighs the setting of the agent.
        let announced = announced_limit(registered).or(responding.message_bytes);
        let message_limit = Arc::new(MessageLimit::new(announced.unwrap_or(RELEASE_LIMIT)));
        let probe = match announced {
            Some(_) => None,
            None => Some(message_limit::probe(connection.clone()).boxed()),
        };
        let backpressure = Backpressure::new(QUERIES_WAITING);
        let counters = Arc::clone(&responding.counters);
        let (sink, inbox) = channel(
            Arc::clone(&backpressure),
            Arc::clone(&message_limit),
            counters,
        );
        let call = transport::Call::new(METHOD)
            .with_metadata(AGENT_ID, &registered.agent_id)
            .with_metadata(AGENT_ID_DASHED, &registered.agent_id);
        let link = LinkOptions::from(self.config.settings().clone())
            .name("fodc metrics")
            .retry_policy(advice)
            .backpressure(Arc::clone(&backpressure))
            .spawn(
                call,
                SharedTransport::new(connection),
                MetricsProtocol::default(),
                sink,
            )
            .expect("the settings were checked");
        // Only a closed link fails to start, and nobody else holds this one.
        link.start().ok();
        let responder = QueryResponder {
            link: link.clone(),
            inbox,
            responding: responding.clone(),
            message_limit,
            probe,
            profile: registered.profile.is_some(),
            backpressure,
            reader: None,
        };
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(responder.run(cancel.clone()));
        tasks.close();
        Stream {
            link,
            responder: tasks,
            cancel,
        }
    }
}

impl<C: transport::Connection> Stream<C> {
    /// Closes the link within its own limit. The responder ends at once.
    async fn close(self) {
        self.cancel.cancel();
        self.link.close().await;
        self.responder.wait().await;
    }
}

/// Returns the longest message that the proxy announced in its registration.
fn announced_limit(registered: &Registered) -> Option<usize> {
    let profile = registered.profile.as_ref()?;
    let bytes = usize::try_from(profile.max_message_bytes).ok()?;
    (bytes > 0).then_some(bytes)
}

/// Creates the sink for a stream's events and the inbox in which the responder finds them.
fn channel(
    backpressure: Arc<Backpressure>,
    message_limit: Arc<MessageLimit>,
    counters: Arc<AtomicCounters>,
) -> (impl FnMut(Event) + Send + 'static, Inbox) {
    let (queries, received_queries) = mpsc::unbounded_channel();
    let (queued, received_queued) = mpsc::unbounded_channel();
    let stream = watch::Sender::new(None);
    let inbox = Inbox {
        queries: received_queries,
        queued: received_queued,
        stream: stream.subscribe(),
    };
    let mut log = EndLog::default();
    // The receivers are gone only while the stream is being closed.
    let sink = move |event| match event {
        Event::Query(from, query) => {
            // Counted before it is passed on, because the responder may be done with it at once.
            backpressure.enqueued();
            queries.send((from, query)).ok();
        }
        Event::Queued(queued_now) => {
            queued.send(queued_now).ok();
        }
        Event::Stream(generation) => {
            counters
                .metrics_streams
                .add(u64::from(generation.is_some()));
            stream.send_replace(generation);
        }
        Event::Ended(end) => {
            log.log(&end);
            on_ended(&end, &message_limit, &counters);
        }
    };
    (sink, inbox)
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
        (
            Reason::Status {
                code: RESOURCE_EXHAUSTED,
                ..
            },
            Advice::Wait(None),
        ) => Some(Advice::Retry),
        (Reason::Status { .. } | Reason::Protocol(_), Advice::Stop | Advice::Refresh) => {
            Some(Advice::Wait(None))
        }
        (_, Advice::Stop | Advice::Refresh | Advice::Retry | Advice::Wait(_)) => None,
    }
}

/// Logs the ends of metrics streams. The registration may live on without one, so that nothing else would
/// say why the proxy has no metrics.
#[derive(Debug, Default)]
struct EndLog {
    last: Option<(String, Instant)>,
}

impl EndLog {
    fn log(&mut self, end: &End) {
        // The loss of the connection is the registration's to report.
        if end.initiator != Initiator::Peer {
            debug!(%end, "metrics stream ended");
        } else if self.is_news(end) {
            warn!(%end, "metrics stream ended");
        } else {
            debug!(%end, "metrics stream ended again");
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

/// Reacts to the end of a stream: counts a proxy without the stream, and lowers the limit after a
/// message that was too large.
fn on_ended(end: &End, message_limit: &MessageLimit, counters: &AtomicCounters) {
    let Reason::Status { code, .. } = end.reason else {
        return;
    };
    if code == UNIMPLEMENTED {
        counters.switched_off.increment();
        warn!("proxy does not implement the metrics stream; off until the next registration");
    }
    if code == RESOURCE_EXHAUSTED {
        let bytes = message_limit.halve();
        warn!(%end, bytes, "proxy rejected a response as too large; limiting messages");
    }
}

#[cfg(test)]
mod tests;
