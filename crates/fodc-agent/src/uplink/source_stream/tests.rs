use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use steadfast::{
    LinkOptions,
    testing::{Peer, ScriptedConnection, ScriptedTransport},
};
use steadfast_session::{Advice, State};
use steadfast_wire::fodc::{
    RegisterAgentRequest, RegisterAgentResponse, StreamClusterTopologyRequest,
    StreamClusterTopologyResponse,
};
use tokio::{
    sync::{mpsc as channel, watch},
    time::{Instant, sleep},
};

use super::*;
use crate::{
    identity::Identity,
    uplink::{
        SampleStore, StoreError, Uplink, Visitor,
        source::{NotSent, Sources, Topology},
    },
};

const SECOND: Duration = Duration::from_secs(1);

struct Empty;

impl SampleStore for Empty {
    fn latest(&self, _: &mut dyn Visitor) -> Result<(), StoreError> {
        Ok(())
    }

    fn window(&self, _: i64, _: i64, _: &mut dyn Visitor) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A source whose behaviour depends on the number of the query.
struct Scripted<F>(AtomicUsize, F);

impl<F> Source<Topology> for Scripted<F>
where
    F: Fn(usize, Responses<Topology>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    fn respond(
        &self,
        _: StreamClusterTopologyResponse,
        responses: Responses<Topology>,
    ) -> BoxFuture<'_, ()> {
        (self.1)(self.0.fetch_add(1, Ordering::SeqCst), responses)
    }
}

fn numbered(number: usize) -> StreamClusterTopologyRequest {
    StreamClusterTopologyRequest {
        error: number.to_string(),
        ..StreamClusterTopologyRequest::default()
    }
}

/// A proxy that registers agents and passes on their topology streams.
fn proxy() -> (ScriptedTransport, channel::UnboundedReceiver<Peer>) {
    let (sender, streams) = channel::unbounded_channel();
    let proxy = ScriptedTransport::new(move |mut peer: Peer| {
        let sender = sender.clone();
        async move {
            match peer.method() {
                "RegisterAgent" => {
                    peer.receive::<RegisterAgentRequest>().await;
                    peer.send(&RegisterAgentResponse {
                        success: true,
                        agent_id: "a".to_owned(),
                        ..RegisterAgentResponse::default()
                    });
                    peer.receive_until_end().await;
                }
                "StreamClusterTopology" => drop(sender.send(peer)),
                _ => peer.receive_until_end().await,
            }
        }
    });
    (proxy, streams)
}

/// Returns an uplink with a source that runs `script` for each query.
fn uplink<F>(proxy: &ScriptedTransport, script: F) -> Uplink<ScriptedConnection>
where
    F: Fn(usize, Responses<Topology>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    let identity = watch::Sender::new(Identity {
        role: "ROLE_DATA".to_owned(),
        pod_name: "db-0".to_owned(),
        ..Identity::default()
    });
    let sources = Sources {
        topology: Some(Arc::new(Scripted(AtomicUsize::new(0), script))),
        ..Sources::default()
    };
    let uplink = Uplink::builder("", identity.subscribe(), Empty)
        .link(LinkOptions::new().seed(7))
        .sources(sources)
        .build_on(proxy.clone())
        .unwrap();
    uplink.start();
    uplink
}

fn respond(number: usize, responses: Responses<Topology>) -> BoxFuture<'static, ()> {
    async move { assert_eq!(responses.send(&numbered(number)).await, Ok(())) }.boxed()
}

fn query() -> StreamClusterTopologyResponse {
    StreamClusterTopologyResponse {
        request_topology: true,
    }
}

/// Returns the number of the next response.
async fn response(peer: &mut Peer) -> String {
    let message = timeout(SECOND * 60, peer.receive::<StreamClusterTopologyRequest>()).await;
    message.unwrap().unwrap().error
}

fn count(uplink: &Uplink<ScriptedConnection>, name: &str) -> u64 {
    let counters = uplink.source_streams()[0].counters.all();
    counters
        .into_iter()
        .find(|(known, ..)| *known == name)
        .unwrap()
        .2
}

fn opened(proxy: &ScriptedTransport, method: &str) -> usize {
    let streams = proxy.streams();
    streams
        .iter()
        .filter(|stream| stream.call.path.ends_with(method))
        .count()
}

#[tokio::test(start_paused = true)]
async fn queries_are_answered_in_order_on_their_stream() {
    let (proxy, mut streams) = proxy();
    let uplink = uplink(&proxy, respond);
    let mut peer = streams.recv().await.unwrap();
    assert_eq!(peer.call().metadata.get("agent_id"), Some("a"));
    for number in 0..3 {
        peer.send(&query());
        peer.send(&query());
        assert_eq!(response(&mut peer).await, (2 * number).to_string());
        assert_eq!(response(&mut peer).await, (2 * number + 1).to_string());
    }
    assert_eq!(
        (count(&uplink, "queries"), count(&uplink, "messages")),
        (6, 6)
    );
}

#[tokio::test(start_paused = true)]
async fn ended_stream_reopens_alone() {
    let (proxy, mut streams) = proxy();
    let uplink = uplink(&proxy, respond);
    for number in 0..5 {
        let mut peer = streams.recv().await.unwrap();
        peer.send(&query());
        assert_eq!(response(&mut peer).await, number.to_string());
        peer.end(End::status(13, "gone", Advice::Retry));
    }
    assert_eq!(uplink.counters().registrations, 1);
    assert_eq!(opened(&proxy, "StreamMetrics"), 1);
}

#[tokio::test(start_paused = true)]
async fn unimplemented_stream_is_tried_once_per_registration() {
    let (proxy, mut streams) = proxy();
    let uplink = uplink(&proxy, respond);
    for registration in 1..=3 {
        let peer = streams.recv().await.unwrap();
        peer.end(End::status(12, "unknown method", Advice::Stop));
        sleep(SECOND * 3_600).await;
        assert_eq!(opened(&proxy, "StreamClusterTopology"), registration);
        assert_eq!(count(&uplink, "unimplemented"), registration as u64);
        assert_eq!(uplink.status().state, State::Connected);
        proxy.connections().last().unwrap().cut();
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_source_ends_only_its_response() {
    let (proxy, mut streams) = proxy();
    let uplink = uplink(&proxy, |number, responses| match number {
        0 => async move {
            let _held = responses;
            panic!("on purpose")
        }
        .boxed(),
        _ => respond(number, responses),
    });
    let mut peer = streams.recv().await.unwrap();
    peer.send(&query());
    peer.send(&query());
    assert_eq!(response(&mut peer).await, "1");
    assert_eq!(count(&uplink, "failures"), 1);
}

#[tokio::test(start_paused = true)]
async fn source_that_hangs_is_dropped_at_its_limit() {
    let (proxy, mut streams) = proxy();
    let uplink = uplink(&proxy, |number, responses| match number {
        0 => async move {
            pending::<()>().await;
            drop(responses);
        }
        .boxed(),
        _ => respond(number, responses),
    });
    let mut peer = streams.recv().await.unwrap();
    let begun = Instant::now();
    peer.send(&query());
    peer.send(&query());
    assert_eq!(response(&mut peer).await, "1");
    assert!(
        begun.elapsed() < Topology::TIME_LIMIT + SECOND,
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(count(&uplink, "failures"), 1);
}

#[tokio::test(start_paused = true)]
async fn response_is_abandoned_with_its_stream() {
    let (proxy, mut streams) = proxy();
    let dropped = Arc::new(Mutex::new(None));
    let observed = Arc::clone(&dropped);
    let _uplink = uplink(&proxy, move |number, responses| match number {
        0 => {
            let observed = Arc::clone(&observed);
            async move {
                sleep(SECOND * 3).await;
                *observed.lock().unwrap() = Some(responses.send(&numbered(0)).await);
            }
            .boxed()
        }
        _ => respond(number, responses),
    });
    let peer = streams.recv().await.unwrap();
    peer.send(&query());
    sleep(SECOND).await;
    peer.end(End::status(13, "gone", Advice::Retry));
    let mut next = streams.recv().await.unwrap();
    next.send(&query());
    assert_eq!(
        response(&mut next).await,
        "1",
        "nothing of the older stream"
    );
    assert_eq!(*dropped.lock().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn message_beyond_the_limit_is_the_sources_to_replace() {
    let (proxy, mut streams) = proxy();
    let _uplink = uplink(&proxy, |_, responses| {
        async move {
            let long = StreamClusterTopologyRequest {
                error: "x".repeat(RELEASE_LIMIT),
                ..StreamClusterTopologyRequest::default()
            };
            let Err(NotSent::TooLong { limit, .. }) = responses.send(&long).await else {
                panic!("too long")
            };
            responses.send(&numbered(limit)).await.unwrap();
        }
        .boxed()
    });
    let mut peer = streams.recv().await.unwrap();
    peer.send(&query());
    assert_eq!(response(&mut peer).await, RELEASE_LIMIT.to_string());
}
