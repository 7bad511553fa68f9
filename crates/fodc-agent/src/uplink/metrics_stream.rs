//! The metrics stream of a registration: how it opens, and what follows from its end.

use std::sync::Arc;

use futures_util::FutureExt as _;
use steadfast::{Backpressure, CallCredentials, transport};
use steadfast_session::{CheckedConfig, End, Reason};
use steadfast_wire::fodc::StreamMetricsResponse;
use tracing::warn;

use super::{
    counters::AtomicCounters,
    message_limit::{self, MessageLimit, RELEASE_LIMIT},
    query_responder::{QueryResponder, Responding},
    query_stream,
    registration::Registered,
    supervisor::{EndLog, OpenStream, StreamCall, StreamOpener, UNIMPLEMENTED, is_too_long},
};

/// Queries that may wait; beyond that the stream is not read.
const QUERIES_WAITING: usize = 16;

/// Opens the metrics stream of each registration.
pub(crate) struct MetricsStream {
    pub(crate) config: CheckedConfig,
    pub(crate) credentials: CallCredentials,
    pub(crate) responding: Responding,
}

impl<C: transport::Connection> StreamOpener<C> for MetricsStream {
    type Query = StreamMetricsResponse;

    fn open(&self, registered: &Registered, connection: C) -> OpenStream<C, Self::Query> {
        let responding = &self.responding;
        // What the proxy says outweighs the setting of the agent.
        let announced = registered.message_bytes().or(responding.message_bytes);
        let message_limit = Arc::new(MessageLimit::new(announced.unwrap_or(RELEASE_LIMIT)));
        let probe = match announced {
            Some(_) => None,
            None => {
                Some(message_limit::probe(connection.clone(), self.credentials.clone()).boxed())
            }
        };
        let backpressure = Backpressure::new(QUERIES_WAITING);
        let (counters, limit) = (Arc::clone(&responding.counters), Arc::clone(&message_limit));
        let mut log = EndLog::new("metrics");
        let (sink, inbox) =
            query_stream::channel(Arc::clone(&backpressure), move |end| match end {
                None => counters.metrics_streams.increment(),
                Some(end) => {
                    log.log(end);
                    on_ended(end, &limit, &counters);
                }
            });
        let call = StreamCall {
            method: "StreamMetrics",
            name: "fodc metrics",
            config: &self.config,
            credentials: &self.credentials,
            backpressure: Arc::clone(&backpressure),
        };
        let (responding, profile) = (responding.clone(), registered.profile.is_some());
        call.open(registered, connection, sink, |link, cancel| {
            let responder = QueryResponder {
                link,
                inbox,
                responding,
                message_limit,
                probe,
                profile,
                backpressure,
                reader: None,
            };
            responder.run(cancel)
        })
    }
}

/// Reacts to the end of a stream: counts a proxy without the stream, and lowers the limit after a
/// message that was too large.
fn on_ended(end: &End, message_limit: &MessageLimit, counters: &AtomicCounters) {
    if matches!(end.reason, Reason::Status { code, .. } if code == UNIMPLEMENTED) {
        counters.switched_off.increment();
        warn!("proxy does not implement the metrics stream; off until the next registration");
    }
    if is_too_long(&end.reason) {
        let bytes = message_limit.halve();
        warn!(%end, bytes, "proxy rejected a response as too large; limiting messages");
    }
}
