use steadfast_session::{Effect, Signal};
use steadfast_wire::fodc::StreamMetricsResponse;

use super::*;

type MetricsProtocol = QueryProtocol<StreamMetricsResponse>;
type MetricsEvent = Event<StreamMetricsResponse>;

const AT: Time = Time::ZERO;

fn effects(
    metrics: &mut MetricsProtocol,
    open: bool,
    call: impl FnOnce(&mut MetricsProtocol, &mut Context<EncodedRequest, MetricsEvent>),
) -> Vec<Effect<EncodedRequest, MetricsEvent>> {
    let mut cx = Context::new(open);
    call(metrics, &mut cx);
    cx.into_effects()
}

/// A protocol whose stream of that generation is open.
fn on(generation: u64) -> MetricsProtocol {
    let mut metrics = MetricsProtocol::default();
    effects(&mut metrics, true, |metrics, cx| {
        metrics.on_open(AT, Generation(generation), cx);
    });
    metrics
}

fn response(generation: u64) -> Command {
    Command::Respond(
        Generation(generation),
        EncodedRequest(Bytes::from_static(b"response")),
    )
}

#[test]
fn nothing_is_sent_before_the_first_query() {
    let mut metrics = MetricsProtocol::default();
    let opened = effects(&mut metrics, true, |metrics, cx| {
        metrics.on_open(AT, Generation(1), cx);
    });
    assert_eq!(opened, [Effect::Event(Event::Stream(Some(Generation(1))))]);
    let beat = effects(&mut metrics, true, |metrics, cx| {
        metrics.on_heartbeat(AT, cx);
    });
    assert_eq!(beat, []);
}

#[test]
fn response_goes_to_the_stream_of_its_query() {
    let mut metrics = on(2);
    let asked = effects(&mut metrics, true, |metrics, cx| {
        metrics.on_message(AT, StreamMetricsResponse::default(), cx);
    });
    let query = StreamMetricsResponse::default();
    assert_eq!(asked, [Effect::Event(Event::Query(Generation(2), query))]);
    let give = |metrics: &mut MetricsProtocol, open, to| {
        effects(metrics, open, |metrics, cx| {
            metrics.on_command(AT, response(to), cx);
        })
    };
    let sent = give(&mut metrics, true, 2);
    let taken = Effect::Event(Event::Queued(true));
    let bytes = EncodedRequest(Bytes::from_static(b"response"));
    assert_eq!(sent, [Effect::Send(bytes), taken]);
    let nowhere = [Effect::Event(Event::Queued(false))];
    assert_eq!(give(&mut metrics, true, 1), nowhere, "of an older stream");
    assert_eq!(give(&mut metrics, false, 2), nowhere, "of no stream");
    let end = End::retry(Initiator::Peer, Reason::Finished);
    effects(&mut metrics, false, |metrics, cx| {
        metrics.on_down(AT, &end, cx);
    });
    assert_eq!(give(&mut metrics, true, 2), nowhere, "of one that is gone");
}

#[test]
fn abandon_ends_only_the_named_stream() {
    let mut metrics = on(2);
    let mut abandon = |generation| {
        effects(&mut metrics, true, |metrics, cx| {
            metrics.on_command(AT, Command::Abandon(Generation(generation)), cx);
        })
    };
    assert_eq!(abandon(1), []);
    let end = End::retry(Initiator::Peer, Reason::OutboxFull);
    assert_eq!(abandon(2), [Effect::Signal(Signal::Fail(end))]);
}

#[test]
fn encoded_request_is_written_verbatim() {
    let bytes = Bytes::from_static(&[1, 2, 3]);
    let encoded = EncodedRequest(bytes.clone());
    assert_eq!(encoded.encode_to_vec(), bytes);
    assert_eq!(encoded.encoded_len(), 3);
}
