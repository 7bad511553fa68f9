//! Holds the metrics stream of each registration, on the registration's connection.
//!
//! What holds now decides, not what happened: a registration that came and went unseen needs nothing.

use std::sync::Arc;

use futures_util::FutureExt as _;
use steadfast::{Borrowed, Gate, Link, Shared, transport};
use steadfast_session::{Advice, CheckedConfig, End, Reason, Status};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    answerer::{Answerer, Clock, Inbox, Patience},
    limits::{self, MessageBytes, RELEASES},
    metrics::{Event, Metrics},
    registration::Registered,
    responder::Responder,
    tally::Tally,
};
use steadfast_fodc_model::identity::Identity;

const METHOD: &str = "/banyandb.fodc.v1.FODCService/StreamMetrics";

/// The metadata by which a proxy knows whose stream it is.
const AGENT_ID: &str = "agent_id";

/// Questions that may wait; with more the stream is not read.
const QUESTIONS: usize = 16;

/// gRPC's code for a message that is too large for the peer.
const RESOURCE_EXHAUSTED: i32 = 8;

/// gRPC's code for a method that the peer does not know.
const UNIMPLEMENTED: i32 = 12;

/// What follows the metrics stream's status, while there is one.
pub(crate) type Shown = watch::Sender<Option<watch::Receiver<Status>>>;

pub(crate) struct Supervisor<C> {
    pub(crate) registered: watch::Receiver<Option<Registered>>,
    pub(crate) connection: watch::Receiver<Option<C>>,
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    pub(crate) responder: Arc<dyn Responder>,
    pub(crate) config: CheckedConfig,
    /// What a proxy takes in one message if it does not say so.
    pub(crate) message_bytes: Option<usize>,
    pub(crate) patience: Patience,
    pub(crate) clock: Clock,
    pub(crate) tally: Arc<Tally>,
    pub(crate) shown: Arc<Shown>,
}

/// A metrics stream and whoever answers on it.
struct Stream<C: transport::Connection> {
    link: Link<Metrics, Shared<C>>,
    answering: TaskTracker,
    cancel: CancellationToken,
}

impl<C: transport::Connection> Supervisor<C> {
    /// Until `cancel`, or until the registration's link is gone.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let next = cancel.run_until_cancelled(self.next()).await;
            let Some((registered, connection)) = next.flatten() else {
                return;
            };
            let stream = self.open(&registered, connection);
            self.shown.send_replace(Some(stream.link.watch()));
            let over = self
                .registered
                .wait_for(|now| now.as_ref() != Some(&registered));
            // An error is the end of the registration's link; the next turn ends then as well.
            cancel.run_until_cancelled(over).await;
            stream.close().await;
            self.shown.send_replace(None);
        }
    }

    /// The registration that holds, with its connection. The connection is shown before the
    /// registration is told and taken back before that is told too, so what was read between two
    /// equal registrations belongs to it.
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
        let profile = registered.profile.as_ref();
        let told = profile.map_or(0, |profile| profile.max_message_bytes);
        let told = usize::try_from(told).ok().filter(|told| *told > 0);
        let told = told.or(self.message_bytes);
        let message_bytes = Arc::new(MessageBytes::new(told.unwrap_or(RELEASES)));
        let version = told
            .is_none()
            .then(|| limits::ask(connection.clone()).boxed());
        let (questions, asked) = mpsc::unbounded_channel();
        let (queued, taken) = mpsc::unbounded_channel();
        let stream = watch::Sender::new(None);
        let open = stream.subscribe();
        let gate = Gate::new(QUESTIONS);
        let (waiting, tally) = (Arc::clone(&gate), Arc::clone(&self.tally));
        let limit = Arc::clone(&message_bytes);
        // The receivers are gone only when the stream is being closed.
        let sink = move |event| match event {
            Event::Asked(from, question) => {
                waiting.put();
                questions.send((from, question)).ok();
            }
            Event::Taken(on_its_way) => {
                queued.send(on_its_way).ok();
            }
            Event::Stream(generation) => {
                tally.metrics_streams.add(u64::from(generation.is_some()));
                stream.send_replace(generation);
            }
            Event::Ended(end) => learn(&end, &limit, &tally),
        };
        let call = transport::Call::new(METHOD).with_metadata(AGENT_ID, &registered.agent_id);
        let link = steadfast::Builder::new(call)
            .name("fodc metrics")
            .config(self.config.settings().clone())
            .policy(advice)
            .gate(Arc::clone(&gate))
            .spawn(Borrowed::new(connection), Metrics::default(), sink)
            .expect("the settings were checked");
        // Only a link that is closed can not be started, and this one is ours.
        link.start().ok();
        let inbox = Inbox {
            questions: asked,
            taken,
            stream: open,
        };
        let answerer = Answerer {
            link: link.clone(),
            inbox,
            responder: Arc::clone(&self.responder),
            identity: self.identity.clone(),
            message_bytes,
            version,
            profile: profile.is_some(),
            patience: self.patience,
            clock: Arc::clone(&self.clock),
            tally: Arc::clone(&self.tally),
            gate,
            thread: None,
        };
        let (answering, cancel) = (TaskTracker::new(), CancellationToken::new());
        answering.spawn(answerer.run(cancel.clone()));
        answering.close();
        Stream {
            link,
            answering,
            cancel,
        }
    }
}

impl<C: transport::Connection> Stream<C> {
    /// Ends it and whoever answers on it; the link bounds its own end, and the answerer ends at once.
    async fn close(self) {
        self.cancel.cancel();
        self.link.close().await;
        self.answering.wait().await;
    }
}

/// Only a proxy that does not implement the stream switches it off. Everything else may pass.
fn advice(end: &End) -> Option<Advice> {
    match (&end.reason, end.advice) {
        (
            Reason::Status {
                code: UNIMPLEMENTED,
                ..
            },
            _,
        ) => Some(Advice::Stop),
        // The next answer is smaller, so there is no need to wait for better times.
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

/// A proxy that finds an answer too large gets smaller ones.
fn learn(end: &End, message_bytes: &MessageBytes, tally: &Tally) {
    let Reason::Status { code, .. } = end.reason else {
        return;
    };
    if code == UNIMPLEMENTED {
        tally.switched_off.count();
        info!("the proxy does not ask for metrics; off until the next registration");
    }
    if code == RESOURCE_EXHAUSTED {
        let bytes = message_bytes.halve();
        warn!(%end, bytes, "answers are smaller from now on");
    }
}

#[cfg(test)]
mod tests;
