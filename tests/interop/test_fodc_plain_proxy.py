"""Our agent, against proxies that behave as the Go programs: the behaviour they need, and known defects."""

import contextlib
import signal
import socket
import time

import grpc
import pytest

from peers import fodc_wire as wire
from peers.relay import GOAWAY, PING
from peers.waiting import until

HEALTH = "/grpc.health.v1.Health/Check"
OTHERS = """\
# HELP jobs_queued queued jobs
# TYPE jobs_queued gauge
jobs_queued{queue="a,b=c",text="say \\"hi\\\\\\n",name="Zoë",type="file",empty=""} 7
# TYPE jobs_done_total counter
jobs_done_total 20
# TYPE job_seconds histogram
job_seconds_bucket{le="1"} 3
job_seconds_bucket{le="+Inf"} 5
job_seconds_sum 4.25
job_seconds_count 5
# TYPE dirt gauge
dirt{text="\udcff\udcfe"} 1
no sample at all
nothing NaN
endless +Inf
bottomless -Inf
"""
# The values of that page which JSON can hold.
FINITE = {
    "job_seconds_bucket": (3, 5),
    "job_seconds_count": (5,),
    "job_seconds_sum": (4.25,),
    "jobs_done_total": (20,),
    "jobs_queued": (7,),
}
# The delays of a doubling backoff; without the first, all are as long as the reconnect interval.
DELAYS = pytest.mark.parametrize("longest", [None, "30s"], ids=["constant", "doubling"])
# Clocks that are read in milliseconds.
ROUNDED = 0.002


def named(response, name):
    return [metric for metric in response.metrics if metric.name == name]


def of_page(response):
    """The metrics that the exporter's page has, without those about its scrapes."""
    about = ("up", "scrape_", "steadfast_")
    return [metric for metric in response.metrics if not metric.name.startswith(about)]


def points(response, container=None):
    """(time, value) of the readings, oldest first."""
    found = named(response, "read_at_seconds")
    if container:
        found = [metric for metric in found if metric.labels["container_name"] == container]
    return sorted((wire.seconds(metric.timestamp), metric.value) for metric in found)


def true(points, exporter):
    """Each value was served, at a time between the one it is said to be of and the one after it."""
    assert points
    for (begun, value), (after, _) in zip(points, [*points[1:], (float("inf"), 0)], strict=True):
        assert value in exporter.readings
        assert begun - ROUNDED <= value <= after + ROUNDED
    return points


def has_recorded(proxy, count=3):
    """Waits until so many readings are recorded; returns the times and values of all so far."""
    return until(
        lambda: found if len(found := points(proxy.query(end=time.time() + 60))) >= count else None, "readings"
    )


def long_page(count, width):
    """A page of so many series, each with a label that wide. Ids have one length, so that all scrapes of
    the page weigh the same."""
    return "".join(f'long{{id="{n:05}",text="{"x" * width}"}} {n}\n' for n in range(count))


def has_long_page(stream):
    """Waits until the agent responds with the long page on the stream."""
    until(lambda: (stream.send(wire.query()), named(stream.next(25), "long"))[1], "the long page", 40)


def own(stage, proxy, exporter, **settings):
    return stage.our_agent(proxy.address, exporter, poll_metrics_interval="200ms", **settings)


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_registration_and_heartbeats_carry_both_identities(stage, version):
    proxy = stage.proxy(version)
    own(stage, proxy, stage.exporter(), heartbeat_interval="1h", node_ip="10.0.0.1", node_port=17912)
    registration = proxy.registered()
    beats = proxy.heartbeats(2)
    expected = wire.Node(container="c0").registration(version)
    for request in (registration.request, *beats):
        # The version does not know the remaining fields.
        unknown = wire.unknown_fields(request)
        request.DiscardUnknownFields()
        assert request == expected
        assert unknown == ({3, 100} if version.has_pods else {4, 5, 100})
    assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)
    assert proxy.metrics_stream().agent_id == registration.agent_id


def test_the_proxy_sets_the_heartbeat_interval(stage):
    exporter = stage.exporter()
    wishes, leaves = stage.proxy(wire.NEWEST, heartbeat=2), stage.proxy(wire.NEWEST, heartbeat=0)
    own(stage, wishes, exporter, heartbeat_interval="100ms")
    own(stage, leaves, exporter, heartbeat_interval="300ms")
    for proxy, interval in ((wishes, 2), (leaves, 0.3)):
        proxy.heartbeats(3)
        times = [at for at, _ in proxy.registrations[0].heartbeats]
        # On a busy machine they are late, but never early on average.
        assert times[-1] - times[0] > (len(times) - 1) * interval * 0.7


def test_a_seed_gets_an_address_even_if_none_was_given(stage):
    proxy = stage.proxy(wire.SEED)
    own(stage, proxy, stage.exporter())
    address = proxy.registered().request.primary_address
    assert address.ip and address.port > 0
    assert proxy.query().HasField("timestamp")


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_latest_values_and_windows_are_true(stage, version):
    proxy = stage.proxy(version)
    exporter = stage.exporter(OTHERS)
    own(stage, proxy, exporter)
    recorded = true(has_recorded(proxy, 6), exporter)
    begun = time.time()
    latest = proxy.query()
    assert abs(wire.seconds(latest.timestamp) - begun) < 30
    assert not any(metric.HasField("timestamp") for metric in latest.metrics)
    [value] = [metric.value for metric in named(latest, "read_at_seconds")]
    assert value in exporter.readings and value >= recorded[-1][1]

    stamp = wire.Node(container="c0").stamp(wire.NEWEST)
    [queued] = named(latest, "jobs_queued")
    labels = {name: text for name, text in queued.labels.items() if text}
    assert labels == {"queue": "a,b=c", "text": 'say "hi\\\n', "name": "Zoë", "type": "file"} | stamp
    assert (queued.value, queued.description) == (7, "queued jobs")
    assert [metric.value for metric in named(latest, "job_seconds_bucket")] == [3, 5]
    # O20: a line that is not UTF-8 costs only itself.
    assert not named(latest, "dirt")
    # O30: a value that the proxy's JSON cannot hold is left out, and costs only itself.
    assert {metric.name for metric in of_page(latest)} == {*FINITE, "read_at_seconds"}
    if version.has_types:
        types = {metric.name: metric.type for metric in latest.metrics}
        assert types["jobs_queued"] == wire.GAUGE
        assert types["jobs_done_total"] == wire.COUNTER
        assert {types[f"job_seconds_{part}"] for part in ("bucket", "sum", "count")} == {wire.HISTOGRAM}
    # The oldest version knows no types, and no version gets more than the original sends.
    assert wire.unknown_fields(latest) == (set() if version.has_types else {6})

    times = [at for at, _ in recorded]
    for start, end, kept in (
        (times[1], times[3], recorded[1:4]),
        (times[1] + 0.001, times[3] - 0.001, recorded[2:3]),
        (times[2], times[2], recorded[2:3]),
        (None, times[2], recorded[:3]),
        (times[3] + 0.0005, times[5] + 0.0005, recorded[4:6]),
        (times[3], times[1], []),
        (times[0] - 3600, times[0] - 1800, []),
    ):
        response = proxy.query(start, end)
        assert points(response) == kept, (start, end)
        assert response.HasField("timestamp")
        assert wire.unknown_fields(response) <= {6}
        # Of every reading each value is there that the JSON can hold, and no other.
        found = [(wire.seconds(metric.timestamp), metric.name, metric.value) for metric in of_page(response)]
        readings = {(at, "read_at_seconds", value) for at, value in kept}
        constant = {(at, name, value) for at, _ in kept for name, values in FINITE.items() for value in values}
        assert sorted(found) == sorted(readings | constant)
    open_end = points(proxy.query(start=times[4]))
    assert open_end[: len(recorded) - 4] == recorded[4:]
    true(open_end, exporter)
    assert len(proxy.registrations) == 1


def test_queries_get_responses_in_order_one_message_each(stage):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    exporter = stage.exporter()
    own(stage, proxy, exporter)
    recorded = has_recorded(proxy, 4)
    stream = proxy.metrics_stream()
    asked = len(stream.received)
    wanted = [recorded[n % 4] for n in range(50)]
    for at, _ in wanted:
        stream.send(wire.query(at, at))
        stream.send(wire.query(1, 2))
    for point in wanted:
        assert points(stream.next()) == [point]
        assert len(stream.next().metrics) == 0
    proxy.heartbeats(len(proxy.heartbeats(0)) + 1)
    assert len(stream.received) == asked + 100


def test_two_endpoints_keep_their_own_times_and_names(stage):
    proxy = stage.proxy(wire.NEWEST)
    first, second = stage.exporter(), stage.exporter()
    stage.our_agent(
        proxy.address, first, second, container_names="data,lifecycle", poll_metrics_interval="200ms"
    )
    assert list(proxy.registered().request.container_names) == ["data", "lifecycle"]
    has_recorded(proxy, 6)
    # A failing endpoint does not move the samples of the other.
    second.failing = True
    read = len(first.readings)
    until(lambda: len(first.readings) > read + 3, "readings of the other")
    second.failing = False
    read = len(second.readings)
    until(lambda: len(second.readings) > read + 3, "readings again")
    response = proxy.query(end=time.time() + 60)
    for exporter, container in ((first, "data"), (second, "lifecycle")):
        found = true(points(response, container), exporter)
        assert len(found) > 6
        # No reading in between is missing.
        served = [value for value in exporter.readings if found[0][1] <= value <= found[-1][1]]
        assert [value for _, value in found] == served


def test_a_vanished_series_is_not_among_the_latest(stage):
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    exporter = stage.exporter("gone 1\n")
    own(stage, proxy, exporter)
    until(lambda: named(proxy.query(), "gone"), "the series")
    exporter.extra = "late 2\n"
    until(lambda: not named(proxy.query(), "gone"), "that it is gone")
    until(lambda: named(proxy.query(), "late"), "the late one")
    response = proxy.query(end=time.time() + 60)
    last = max(wire.seconds(metric.timestamp) for metric in named(response, "gone"))
    first = min(wire.seconds(metric.timestamp) for metric in named(response, "late"))
    assert last < first
    times = [at for at, _ in points(response)]
    assert {last, first} <= set(times)


def test_a_response_over_4_mib_leaves_out_the_oldest_samples(stage):
    exporter = stage.exporter(long_page(2_000, 200))
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    stage.our_agent(proxy.address, exporter, poll_metrics_interval="500ms")
    proxy.registered()

    def cut_window():
        response = proxy.query(end=time.time() + 60, seconds=25)
        oldest = points(response)
        return response if oldest and exporter.readings.index(oldest[0][1]) > 3 else None

    response = until(cut_window, "more readings than fit", 45)
    assert (2 << 20) < response.ByteSize() <= (4 << 20)
    times = sorted({wire.seconds(metric.timestamp) for metric in named(response, "long")})
    # The response is the newest part, complete.
    assert times == [at for at, _ in true(points(response), exporter)]
    assert len(named(response, "long")) == 2_000 * len(times)
    # The latest values alone are cut as well when they do not fit.
    exporter.extra = long_page(16_000, 300)

    def large():
        response = proxy.query(seconds=25)
        return response if response.ByteSize() > 3 << 20 else None

    assert until(large, "a large response", 40).ByteSize() <= 4 << 20
    assert len(proxy.registrations) == 1
    assert len({stream.agent_id for stream in proxy.open_streams(wire.METRICS)}) == 1
    assert len([call for call in proxy.calls if call.endswith(wire.METRICS)]) == 1


def test_an_unimplemented_metrics_stream_is_switched_off(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.lacks.add(wire.METRICS)
    relay = stage.relay(proxy.address)
    stage.our_agent(relay.address, stage.exporter())
    proxy.heartbeats(5, 30)
    assert len(proxy.registrations) == 1
    assert [call for call in proxy.calls if call.endswith(wire.METRICS)] == [
        f"/{wire.SERVICE}/{wire.METRICS}"
    ]
    assert relay.accepted == 1
    # The next registration tries it anew.
    proxy.lacks.clear()
    proxy.registrations[0].stream.end(grpc.StatusCode.UNAVAILABLE, "going away")
    proxy.registered(2)
    assert proxy.query().HasField("timestamp")


@DELAYS
def test_a_proxy_without_the_service_meets_no_storm(stage, longest):
    proxy = stage.proxy(wire.NEWEST)
    proxy.lacks.add(wire.REGISTER)
    relay = stage.relay(proxy.address)
    agent = stage.our_agent(
        relay.address, stage.exporter(), reconnect_interval="1s", reconnect_interval_max=longest
    )
    until(lambda: proxy.calls, "a call")
    time.sleep(4)
    # Whatever the longest delay of an absent proxy, refusals are met after 1, 2 and 4 s.
    assert 2 <= len(proxy.calls) <= 3
    assert relay.accepted <= len(proxy.calls)
    agent.stop()


def test_a_restarted_proxy_sees_one_registration_each_time(stage):
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    own(stage, proxy, stage.exporter())
    for restart in range(4):
        proxy.registered(seconds=30)
        assert proxy.query().HasField("timestamp")
        proxy.heartbeats(1)
        assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)
        port = proxy.port
        proxy.kill()
        proxy = stage.proxy(wire.VERSIONS[restart], port=port)
    proxy.registered(seconds=30)


def test_an_agent_that_starts_before_the_proxy_finds_it(stage):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    exporter = stage.exporter()
    stage.our_agent(f"127.0.0.1:{port}", exporter, poll_metrics_interval="200ms")
    # Meanwhile it records, and more than one attempt has failed.
    until(lambda: len(exporter.readings) > 15, "readings without a proxy", 30)
    proxy = stage.proxy(wire.SEED, port=port)
    proxy.registered(seconds=30)
    recorded = true(points(proxy.query(end=time.time() + 60)), exporter)
    assert exporter.readings.index(recorded[0][1]) <= 1
    assert len(proxy.registrations) == 1


def test_an_unanswered_registration_is_retried(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.mute = True
    relay = stage.relay(proxy.address)
    stage.our_agent(relay.address, stage.exporter())
    until(lambda: proxy.asked == 1, "a registration")
    proxy.mute = False
    proxy.registered(seconds=40)
    assert proxy.query().HasField("timestamp")
    assert proxy.asked == 2
    assert relay.accepted <= 2


@DELAYS
def test_a_refused_registration_is_retried_with_backoff(stage, longest):
    proxy = stage.proxy(wire.SEED)
    proxy.refusal = "maximum number of agents (1000) reached"
    relay = stage.relay(proxy.address)
    begun = time.monotonic()
    stage.our_agent(
        relay.address, stage.exporter(), reconnect_interval="1s", reconnect_interval_max=longest
    )
    until(lambda: proxy.asked >= 3, "three attempts", 30)
    # Two waits from one second, each shortened by a fifth at most.
    assert time.monotonic() - begun > 0.8 * ((1 + 2) if longest else (1 + 1))
    proxy.refusal = None
    proxy.registered(seconds=40)
    assert len(proxy.registrations) == 1
    assert relay.accepted <= proxy.asked


def test_a_registration_without_an_id_is_none(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.nameless = True
    stage.our_agent(proxy.address, stage.exporter())
    until(lambda: proxy.asked >= 2, "that it tries again", 30)
    assert not proxy.open_streams(wire.METRICS)
    proxy.nameless = False
    proxy.registered(seconds=40)
    assert proxy.query().HasField("timestamp")


def test_messages_after_the_registration_response_are_ignored(stage):
    proxy = stage.proxy(wire.NEWEST)
    own(stage, proxy, stage.exporter())
    stream = proxy.registered().stream
    for response in ({"success": False, "message": "no"}, {"success": True, "agent_id": "another"}, {}):
        stream.send(wire.messages.RegisterAgentResponse(**response))
    proxy.heartbeats(2)
    assert proxy.query().HasField("timestamp")
    assert (len(proxy.registrations), stream.open) == (1, True)
    assert proxy.metrics_stream().agent_id == proxy.registrations[0].agent_id


def test_streams_that_end_once_accepted_make_no_storm(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.ends = wire.REGISTER
    begun = time.monotonic()
    own(stage, proxy, stage.exporter())
    proxy.registered(3, 30)
    assert len(proxy.registrations) <= (time.monotonic() - begun) / 0.5 + 2
    proxy.ends = wire.METRICS
    until(lambda: proxy.registrations[-1].heartbeats, "a registration that holds", 40)
    count = len(proxy.registrations)

    def opened():
        return len([call for call in proxy.calls if call.endswith(wire.METRICS)])

    before, begun = opened(), time.monotonic()
    until(lambda: opened() > before + 1, "that the metrics stream is tried again", 40)
    assert opened() - before <= (time.monotonic() - begun) / 0.5 + 2
    proxy.ends = None

    def answered():
        # A stream that was accepted earlier may still be ending.
        held = proxy.open_streams(wire.METRICS)
        if held:
            held[-1].send(wire.query())
            with contextlib.suppress(AssertionError):
                return held[-1].next(3)
        return None

    assert until(answered, "a stream that holds", 45).HasField("timestamp")
    assert len(proxy.registrations) == count


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN], ids=str)
def test_a_metrics_stream_that_ends_is_reopened_alone(stage, code):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    own(stage, proxy, stage.exporter(), reconnect_interval="200ms")
    first = proxy.metrics_stream()
    # A query that got no response does not delay later ones.
    first.end(code, "going away")
    until(lambda: not first.open, "the end")
    second = proxy.metrics_stream(20 if code is None else 50)
    assert second is not first and second.agent_id == first.agent_id
    assert proxy.query().HasField("timestamp")
    assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE], ids=str)
def test_a_registration_that_ends_is_made_anew_once(stage, code):
    proxy = stage.proxy(wire.NEWEST)
    own(stage, proxy, stage.exporter(), reconnect_interval="500ms")
    old = proxy.metrics_stream()
    proxy.registered().stream.end(code, "going away")
    proxy.registered(2)
    assert proxy.query().HasField("timestamp")
    until(lambda: not old.open, "the end of the old stream")
    proxy.heartbeats(2)
    assert len(proxy.registrations) == 2
    assert len(proxy.open_streams(wire.REGISTER)) == len(proxy.open_streams(wire.METRICS)) == 1


def test_sigterm_leaves_a_frozen_proxy(stage):
    proxy = stage.proxy_process(wire.NEWEST)
    agent = stage.our_agent(proxy.address, stage.exporter())
    proxy.registered()
    proxy.signal(signal.SIGSTOP)
    time.sleep(2)
    assert agent.runs()
    agent.stop()


def test_sigterm_leaves_with_a_full_send_buffer(stage):
    proxy = stage.proxy(wire.NEWEST)
    relay = stage.relay(proxy.address)
    agent = stage.our_agent(relay.address, stage.exporter(long_page(10_000, 300)))
    stream = proxy.metrics_stream()
    has_long_page(stream)
    relay.takes.clear()
    for _ in range(10):
        stream.send(wire.query())
    time.sleep(2)
    assert agent.runs()
    agent.stop()


def test_an_unread_response_does_not_delay_heartbeats(stage):
    proxy = stage.proxy(wire.NEWEST)
    stage.our_agent(proxy.address, stage.exporter(long_page(8_000, 300)))
    stream = proxy.metrics_stream()
    until(lambda: named(proxy.query(seconds=25), "long"), "the long page", 40)
    proxy.takes.clear()
    received = len(stream.received)
    for _ in range(8):
        stream.send(wire.query())
    stream.next(25)
    proxy.heartbeats(len(proxy.heartbeats(0)) + 4, 40)
    assert len(stream.received) == received + 1
    proxy.takes.set()
    for _ in range(7):
        assert named(stream.next(40), "long")
    assert len(proxy.registrations) == 1


def test_an_agent_with_a_stuck_response_finds_the_next_proxy(stage):
    first, second = stage.proxy(wire.NEWEST), stage.proxy(wire.UNTYPED_RELEASE)
    relay = stage.relay(first.address)
    stage.our_agent(relay.address, stage.exporter(long_page(10_000, 300)))
    stream = first.metrics_stream()
    has_long_page(stream)
    relay.takes.clear()
    for _ in range(10):
        stream.send(wire.query())
    time.sleep(2)
    relay.target = second.address
    relay.cut()
    relay.takes.set()
    second.registered(seconds=40)
    assert second.query(seconds=25).HasField("timestamp")
    assert (len(first.registrations), len(second.registrations)) == (1, 1)


def test_sigterm_leaves_a_proxy_that_never_speaks(stage):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        agent = stage.our_agent(f"127.0.0.1:{deaf.getsockname()[1]}", stage.exporter())
        connection, _ = deaf.accept()
        with connection:
            agent.stop()


def test_an_agent_that_leaves_ends_its_streams_in_order(stage):
    proxy = stage.proxy(wire.NEWEST)
    agent = own(stage, proxy, stage.exporter())
    proxy.metrics_stream()
    proxy.heartbeats(1)
    agent.stop()
    until(lambda: not any(stream.open for stream in proxy.streams), "the end of the streams")
    assert len(proxy.registrations) == 1


def test_a_killed_agent_continues_its_record(stage):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    exporter = stage.exporter()
    record = stage.folder("record")
    settings = {"in_memory": None, "data": record, "poll_metrics_interval": "200ms"}
    first = stage.our_agent(proxy.address, exporter, **settings)
    before = has_recorded(proxy, 6)
    first.kill()
    stage.our_agent(proxy.address, exporter, **settings)
    proxy.registered(2)
    until(lambda: len(points(proxy.query(start=before[-1][0] + 0.001))) > 4, "readings after the restart")
    after = true(points(proxy.query(end=time.time() + 60)), exporter)
    assert after[: len(before)] == before


def test_an_idle_uplink_stays_and_sends_no_ping(stage):
    proxy = stage.proxy(wire.SEED, heartbeat=10)
    relay = stage.relay(proxy.address)
    agent = stage.our_agent(relay.address, stage.exporter())
    proxy.registered()
    # The health check is the only probe that every version answers.
    until(lambda: HEALTH in proxy.calls, "that it is asked for life", 50)
    proxy.heartbeats(3, 50)
    assert (len(proxy.registrations), relay.accepted) == (1, 1)
    assert (relay.sent[PING], relay.came[GOAWAY]) == (0, 0)
    assert proxy.query().HasField("timestamp")
    assert agent.runs()
    agent.stop()
    assert relay.sent[PING] == 0
