//! One registered agent: its queries and its open streams.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_session::Time;
use steadfast_wire::fodc::{Matcher, StreamMetricsResponse, matcher};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::debug;

use super::{
    counters::Counters,
    credentials::Owner,
    frames::Outbound,
    lanes::Lanes,
    query::{MetricNames, Outcome, Query, Request, ResponsePart},
    query_queue::{Action, CarriedState, QueryLimits, QueryQueue, SliceShare, StreamEnd},
    samples::Samples,
    time::UnixNanos,
};

/// Takes the outcome of one query to one agent.
type ReplySender = oneshot::Sender<Outcome<Samples>>;

/// A registered agent, from its registration until it is forgotten or replaced.
#[derive(Debug)]
pub(super) struct AgentEntry {
    pub(super) queries: QueryQueue<ReplySender, Samples>,
    /// The agent is in the queue of those that can be asked for a window.
    pub(super) waits_for_window: bool,
    /// The metrics stream that requests are sent on.
    outbound: Option<Outbound>,
    /// Older metrics streams that are still open, by generation. An agent that reopens its stream may
    /// get here in the wrong order, and the one it means is then among these.
    superseded: BTreeMap<u64, SupersededStream>,
    /// The number of open streams, by method; the registration stream is not counted.
    pub(super) streams: BTreeMap<&'static str, usize>,
    /// The queries on the other streams.
    pub(super) lanes: Lanes,
    /// Ends all streams of the agent.
    pub(super) end: CancellationToken,
    /// The principal that registered it; `None` if there is no policy.
    pub(super) owner: Option<Owner>,
    counters: Arc<Counters>,
}

/// A metrics stream that a newer one of the same agent replaced.
#[derive(Debug)]
struct SupersededStream {
    outbound: Outbound,
    /// A request on it has no response. The next message on it belongs to a query that restarted on
    /// the newer stream.
    outstanding: bool,
}

impl AgentEntry {
    pub(super) fn new(
        now: Time,
        limits: QueryLimits,
        carried: CarriedState,
        end: CancellationToken,
        counters: Arc<Counters>,
        owner: Option<Owner>,
    ) -> Self {
        Self {
            queries: QueryQueue::new(limits, carried),
            waits_for_window: false,
            outbound: None,
            superseded: BTreeMap::new(),
            streams: BTreeMap::new(),
            lanes: Lanes::new(now),
            end,
            owner,
            counters,
        }
    }

    pub(super) fn open_stream(&mut self, method: &'static str) {
        *self.streams.entry(method).or_default() += 1;
    }

    pub(super) fn close_stream(&mut self, method: &'static str) {
        if let Some(open) = self.streams.get_mut(method) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.streams.remove(method);
            }
        }
    }

    /// Sends requests on this metrics stream from now on.
    pub(super) fn open_metrics(
        &mut self,
        now: Time,
        generation: u64,
        profile: bool,
        outbound: Outbound,
    ) {
        // Before the step, which sends its requests on the stream that is set here.
        let older = self.outbound.replace(outbound);
        if let (Some(outbound), Some(older)) = (older, self.queries.generation()) {
            // Before the step as well: it sends the request again, on the newer stream.
            let outstanding = self.queries.is_outstanding();
            let stream = SupersededStream {
                outbound,
                outstanding,
            };
            self.superseded.insert(older, stream);
        }
        self.step(|queries, out| queries.on_stream_opened(now, generation, profile, out));
    }

    /// Takes note that the metrics stream of this generation has ended, and returns to the newest
    /// superseded one if no other is open.
    pub(super) fn close_metrics(
        &mut self,
        now: Time,
        generation: u64,
        profile: bool,
        end: StreamEnd,
    ) {
        // If it was a superseded one, the queue ignores its end.
        self.superseded.remove(&generation);
        self.step(|queries, out| queries.on_stream_closed(generation, end, out));
        while self.queries.generation().is_none()
            && let Some((generation, stream)) = self.superseded.pop_last()
        {
            if stream.outstanding {
                // Its next message would be taken for the response to a new request. If this was the
                // stream that the agent means, it opens another.
                let text = "another stream of this agent took the place of this one";
                stream.outbound.end(Status::aborted(text));
                continue;
            }
            self.outbound = Some(stream.outbound);
            self.step(|queries, out| queries.on_stream_opened(now, generation, profile, out));
        }
    }

    /// Queues a query and returns the receiver of its outcome.
    pub(super) fn query(
        &mut self,
        now: Time,
        query: (Query, SliceShare),
        names: &MetricNames,
        deadline: Time,
    ) -> oneshot::Receiver<Outcome<Samples>> {
        let (sender, receiver) = oneshot::channel();
        let times = (now, UnixNanos::wall_clock());
        self.step(|queries, out| queries.enqueue(times, query, names, (sender, deadline), out));
        receiver
    }

    /// Requests the next window. Returns true if the agent was asked for one.
    pub(super) fn start_window(&mut self, now: Time) -> bool {
        self.step(|queries, out| queries.start_window(now, out));
        self.queries.is_sending_window(now)
    }

    /// Takes a message of the metrics stream; `kept` is false if it did not fit into memory.
    pub(super) fn on_part(
        &mut self,
        now: Time,
        generation: u64,
        part: ResponsePart<Samples>,
        kept: bool,
    ) {
        self.step(|queries, out| {
            if kept {
                queries.on_part(now, generation, part, out);
            } else {
                queries.on_dropped_part(now, generation, part, out);
            }
        });
    }

    pub(super) fn on_tick(&mut self, now: Time) {
        self.step(|queries, out| queries.on_tick(now, out));
        self.lanes.on_tick(now);
    }

    /// Steps the queue and performs its actions.
    fn step(
        &mut self,
        step: impl FnOnce(&mut QueryQueue<ReplySender, Samples>, &mut Vec<Action<ReplySender, Samples>>),
    ) {
        let mut out = Vec::new();
        step(&mut self.queries, &mut out);
        for action in out {
            match action {
                Action::Send(request) => {
                    self.counters.requests.add(1);
                    if let Some(outbound) = &self.outbound {
                        outbound.send(&message(&request));
                    }
                }
                Action::EndStream(generation) => {
                    debug!(generation, "ending a metrics stream without a response");
                    if let Some(outbound) = self.outbound.take() {
                        outbound.end(Status::deadline_exceeded("no response for too long"));
                    }
                }
                // The receiver is gone when the HTTP client disconnected.
                Action::Resolve(sender, outcome) => drop(sender.send(outcome)),
            }
        }
        if self.queries.generation().is_none() {
            self.outbound = None;
        }
    }
}

/// Converts a request into the message that asks for it.
fn message(request: &Request) -> StreamMetricsResponse {
    let (start_time, end_time) = match request.query {
        Query::Latest => (None, None),
        Query::Window(window) => (
            Some(window.start().timestamp()),
            Some(window.end().timestamp()),
        ),
    };
    let mut message = StreamMetricsResponse {
        start_time,
        end_time,
        ..StreamMetricsResponse::default()
    };
    // Others skip fields that they do not know: their responses are filtered by the proxy.
    if request.profile {
        message.request_id = request.id;
        message.matchers = name_matcher(request.names.list()).into_iter().collect();
        message.columnar = true;
    }
    message
}

/// Returns one matcher for all names: a series must satisfy every matcher of a request.
fn name_matcher(names: &[String]) -> Option<Matcher> {
    let (kind, value) = match names {
        [] => return None,
        [name] => (matcher::Type::Equal, name.clone()),
        several => {
            let escaped: Vec<String> = several
                .iter()
                .map(|name| regex_syntax::escape(name))
                .collect();
            (matcher::Type::Matches, escaped.join("|"))
        }
    };
    Some(Matcher {
        r#type: kind.into(),
        name: "__name__".to_owned(),
        value,
    })
}
