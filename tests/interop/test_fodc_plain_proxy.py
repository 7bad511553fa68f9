"""Our agent, against proxies as the Go programs are: what they rely on, and what they suffered from."""

import contextlib
import signal
import socket
import time

import grpc
import pytest

from peers import fodc_wire as wire
from peers.fodc_beside import beside
from peers.fodc_tap import GOAWAY, PING
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
"""
# Clocks that are read in milliseconds.
ROUNDED = 0.002


def named(answer, name):
    return [metric for metric in answer.metrics if metric.name == name]


def points(answer, container=None):
    """(time, value) of the readings, oldest first."""
    found = named(answer, "read_at_seconds")
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
        lambda: found if len(found := points(proxy.ask(end=time.time() + 60))) >= count else None, "readings"
    )


def own(stage, proxy, exporter, **settings):
    return stage.our_agent(proxy.address, exporter, poll_metrics_interval="200ms", **settings)


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_req_f5_the_registration_and_each_heartbeat_carry_both_identities(stage, version):
    proxy = stage.proxy(version)
    own(stage, proxy, stage.exporter(), heartbeat_interval="1h", node_ip="10.0.0.1", node_port=17912)
    registration = proxy.registered()
    beats = proxy.heartbeats(2)
    expected = wire.Node(container="c0").registration(version)
    for request in (registration.request, *beats):
        # What is left, the version does not know.
        unknown = wire.strange(request)
        request.DiscardUnknownFields()
        assert request == expected
        assert unknown == ({3, 100} if version.has_pods else {4, 5, 100})
    assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)
    assert proxy.metrics_stream().agent_id == registration.agent_id


@beside
def test_req_f6_the_heartbeat_interval_is_the_proxys_or_else_our_own(stage):
    exporter = stage.exporter()
    wishes, leaves = stage.proxy(wire.NEWEST, heartbeat=2), stage.proxy(wire.NEWEST, heartbeat=0)
    own(stage, wishes, exporter, heartbeat_interval="100ms")
    own(stage, leaves, exporter, heartbeat_interval="300ms")
    for proxy, interval in ((wishes, 2), (leaves, 0.3)):
        proxy.heartbeats(3)
        times = [at for at, _ in proxy.registrations[0].heartbeats]
        # They come late on a busy machine, never early for long.
        assert times[-1] - times[0] > (len(times) - 1) * interval * 0.7


def test_fodc_f9_a_seed_gets_an_address_even_if_none_was_given(stage):
    proxy = stage.proxy(wire.SEED)
    own(stage, proxy, stage.exporter())
    address = proxy.registered().request.primary_address
    assert address.ip and address.port > 0
    assert proxy.ask().HasField("timestamp")


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_req_f7_latest_values_and_windows_are_true(stage, version):
    proxy = stage.proxy(version)
    exporter = stage.exporter(OTHERS)
    own(stage, proxy, exporter)
    recorded = true(has_recorded(proxy, 6), exporter)
    begun = time.time()
    latest = proxy.ask()
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
    # O20: a line that is no text costs itself.
    assert not named(latest, "dirt")
    [nothing] = named(latest, "nothing")
    assert nothing.value != nothing.value
    if version.has_types:
        types = {metric.name: metric.type for metric in latest.metrics}
        assert types["jobs_queued"] == wire.GAUGE
        assert types["jobs_done_total"] == wire.COUNTER
        assert {types[f"job_seconds_{part}"] for part in ("bucket", "sum", "count")} == {wire.HISTOGRAM}
    # The oldest version knows no types; nobody is told more than the original says.
    assert wire.strange(latest) == (set() if version.has_types else {6})

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
        answer = proxy.ask(start, end)
        assert points(answer) == kept, (start, end)
        assert answer.HasField("timestamp")
        assert wire.strange(answer) <= {6}
    open_end = points(proxy.ask(start=times[4]))
    assert open_end[: len(recorded) - 4] == recorded[4:]
    true(open_end, exporter)
    assert len(proxy.registrations) == 1


def test_req_f7_questions_are_answered_in_order_one_message_each(stage):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    exporter = stage.exporter()
    own(stage, proxy, exporter)
    recorded = has_recorded(proxy, 4)
    stream = proxy.metrics_stream()
    asked = len(stream.received)
    wanted = [recorded[n % 4] for n in range(50)]
    for at, _ in wanted:
        stream.send(wire.question(at, at))
        stream.send(wire.question(1, 2))
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
    # One endpoint fails, and the other's samples stay where they are.
    second.failing = True
    read = len(first.readings)
    until(lambda: len(first.readings) > read + 3, "readings of the other")
    second.failing = False
    read = len(second.readings)
    until(lambda: len(second.readings) > read + 3, "readings again")
    answer = proxy.ask(end=time.time() + 60)
    for exporter, container in ((first, "data"), (second, "lifecycle")):
        found = true(points(answer, container), exporter)
        assert len(found) > 6
        # Nothing in between is left out.
        served = [value for value in exporter.readings if found[0][1] <= value <= found[-1][1]]
        assert [value for _, value in found] == served


def test_req_f10_a_vanished_series_is_not_among_the_latest(stage):
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    exporter = stage.exporter("gone 1\n")
    own(stage, proxy, exporter)
    until(lambda: named(proxy.ask(), "gone"), "the series")
    exporter.extra = "late 2\n"
    until(lambda: not named(proxy.ask(), "gone"), "that it is gone")
    until(lambda: named(proxy.ask(), "late"), "the late one")
    answer = proxy.ask(end=time.time() + 60)
    last = max(wire.seconds(metric.timestamp) for metric in named(answer, "gone"))
    first = min(wire.seconds(metric.timestamp) for metric in named(answer, "late"))
    assert last < first
    times = [at for at, _ in points(answer)]
    assert {last, first} <= set(times)


@beside
def test_fodc_f6_an_answer_never_exceeds_four_mebibytes_and_leaves_out_the_oldest(stage):
    # Ids of the same length, so that all scrapes weigh the same.
    page = "".join(f'long{{id="{n:05}",text="{"x" * 200}"}} {n}\n' for n in range(2_000))
    exporter = stage.exporter(page)
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    stage.our_agent(proxy.address, exporter, poll_metrics_interval="500ms")
    proxy.registered()

    def cut_window():
        answer = proxy.ask(end=time.time() + 60, seconds=25)
        oldest = points(answer)
        return answer if oldest and exporter.readings.index(oldest[0][1]) > 3 else None

    answer = until(cut_window, "more readings than fit", 45)
    assert (2 << 20) < answer.ByteSize() <= (4 << 20)
    times = sorted({wire.seconds(metric.timestamp) for metric in named(answer, "long")})
    # What is there is the newest part, whole.
    assert times == [at for at, _ in true(points(answer), exporter)]
    assert len(named(answer, "long")) == 2_000 * len(times)
    # The latest values alone, once they too are more than fits.
    exporter.extra = "".join(f'long{{id="{n:05}",text="{"x" * 300}"}} {n}\n' for n in range(16_000))

    def large():
        answer = proxy.ask(seconds=25)
        return answer if answer.ByteSize() > 3 << 20 else None

    assert until(large, "a large answer", 40).ByteSize() <= 4 << 20
    assert len(proxy.registrations) == 1
    assert len({stream.agent_id for stream in proxy.open_streams(wire.METRICS)}) == 1
    assert len([call for call in proxy.calls if call.endswith(wire.METRICS)]) == 1


@beside
def test_fodc_o2_a_metrics_stream_that_is_not_implemented_is_switched_off(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.lacks.add(wire.METRICS)
    tap = stage.tap(proxy.address)
    stage.our_agent(tap.address, stage.exporter())
    proxy.heartbeats(5, 30)
    assert len(proxy.registrations) == 1
    assert [call for call in proxy.calls if call.endswith(wire.METRICS)] == [
        f"/{wire.SERVICE}/{wire.METRICS}"
    ]
    assert tap.connections == 1
    # The next registration tries it anew.
    proxy.lacks.clear()
    proxy.registrations[0].stream.end(grpc.StatusCode.UNAVAILABLE, "going away")
    proxy.registered(2)
    assert proxy.ask().HasField("timestamp")


@beside
def test_fodc_o2_a_proxy_without_the_service_meets_no_storm(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.lacks.add(wire.REGISTER)
    tap = stage.tap(proxy.address)
    agent = stage.our_agent(tap.address, stage.exporter())
    until(lambda: proxy.calls, "a call")
    time.sleep(4)
    assert len(proxy.calls) <= 4
    assert tap.connections <= len(proxy.calls)
    agent.terminate()
    agent.leaves()


@beside
def test_fodc_f2_f3_a_proxy_that_restarts_sees_one_registration_each_time(stage):
    proxy = stage.proxy(wire.UNTYPED_RELEASE)
    own(stage, proxy, stage.exporter())
    for restart in range(4):
        proxy.registered(seconds=30)
        assert proxy.ask().HasField("timestamp")
        proxy.heartbeats(1)
        assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)
        port = proxy.port
        proxy.kill()
        proxy = stage.proxy(wire.VERSIONS[restart], port=port)
    proxy.registered(seconds=30)


@beside
def test_fodc_f1_f5_an_agent_that_starts_before_the_proxy_finds_it(stage):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    exporter = stage.exporter()
    stage.our_agent(f"127.0.0.1:{port}", exporter, poll_metrics_interval="200ms")
    # It records meanwhile, and has tried in vain more than once.
    until(lambda: len(exporter.readings) > 15, "readings without a proxy", 30)
    proxy = stage.proxy(wire.SEED, port=port)
    proxy.registered(seconds=30)
    recorded = true(points(proxy.ask(end=time.time() + 60)), exporter)
    assert exporter.readings.index(recorded[0][1]) <= 1
    assert len(proxy.registrations) == 1


@beside
def test_fodc_o7_a_proxy_that_never_answers_the_registration_is_asked_again(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.mute = True
    tap = stage.tap(proxy.address)
    stage.our_agent(tap.address, stage.exporter())
    until(lambda: proxy.asked == 1, "a registration")
    proxy.mute = False
    proxy.registered(seconds=40)
    assert proxy.ask().HasField("timestamp")
    assert proxy.asked == 2
    assert tap.connections <= 2


@beside
def test_fodc_f5_a_proxy_that_refuses_is_asked_again_with_patience(stage):
    proxy = stage.proxy(wire.SEED)
    proxy.refusal = "maximum number of agents (1000) reached"
    tap = stage.tap(proxy.address)
    begun = time.monotonic()
    stage.our_agent(tap.address, stage.exporter())
    until(lambda: proxy.asked >= 3, "three attempts", 30)
    # The waits double from one second.
    assert time.monotonic() - begun > 2
    proxy.refusal = None
    proxy.registered(seconds=40)
    assert len(proxy.registrations) == 1
    assert tap.connections <= proxy.asked


@beside
def test_a_registration_without_an_id_is_none(stage):
    proxy = stage.proxy(wire.NEWEST)
    proxy.nameless = True
    stage.our_agent(proxy.address, stage.exporter())
    until(lambda: proxy.asked >= 2, "that it tries again", 30)
    assert not proxy.open_streams(wire.METRICS)
    proxy.nameless = False
    proxy.registered(seconds=40)
    assert proxy.ask().HasField("timestamp")


def test_what_comes_after_the_answer_to_the_registration_means_nothing(stage):
    proxy = stage.proxy(wire.NEWEST)
    own(stage, proxy, stage.exporter())
    stream = proxy.registered().stream
    for answer in ({"success": False, "message": "no"}, {"success": True, "agent_id": "another"}, {}):
        stream.send(wire.messages.RegisterAgentResponse(**answer))
    proxy.heartbeats(2)
    assert proxy.ask().HasField("timestamp")
    assert (len(proxy.registrations), stream.open) == (1, True)
    assert proxy.metrics_stream().agent_id == proxy.registrations[0].agent_id


@beside
def test_fodc_o2_streams_that_end_right_after_they_were_accepted_make_no_storm(stage):
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
        # One that was accepted before may be ending still.
        held = proxy.open_streams(wire.METRICS)
        if held:
            held[-1].send(wire.question())
            with contextlib.suppress(AssertionError):
                return held[-1].next(3)
        return None

    assert until(answered, "a stream that holds", 45).HasField("timestamp")
    assert len(proxy.registrations) == count


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN], ids=str)
def test_req_f8_a_metrics_stream_that_ends_is_reopened_alone(stage, code):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    own(stage, proxy, stage.exporter(), reconnect_interval="200ms")
    first = proxy.metrics_stream()
    # A question without an answer costs nothing later.
    first.end(code, "going away")
    until(lambda: not first.open, "the end")
    second = proxy.metrics_stream(20 if code is None else 50)
    assert second is not first and second.agent_id == first.agent_id
    assert proxy.ask().HasField("timestamp")
    assert (len(proxy.registrations), len(proxy.connections())) == (1, 1)


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE], ids=str)
def test_req_f8_a_registration_that_ends_is_made_anew_once(stage, code):
    proxy = stage.proxy(wire.NEWEST)
    own(stage, proxy, stage.exporter(), reconnect_interval="500ms")
    old = proxy.metrics_stream()
    proxy.registered().stream.end(code, "going away")
    proxy.registered(2)
    assert proxy.ask().HasField("timestamp")
    until(lambda: not old.open, "the end of the old stream")
    proxy.heartbeats(2)
    assert len(proxy.registrations) == 2
    assert len(proxy.open_streams(wire.REGISTER)) == len(proxy.open_streams(wire.METRICS)) == 1


@beside
def test_fodc_f4_sigterm_leaves_a_frozen_proxy(stage):
    proxy = stage.proxy_process(wire.NEWEST)
    agent = stage.our_agent(proxy.address, stage.exporter())
    proxy.registered()
    proxy.signal(signal.SIGSTOP)
    time.sleep(2)
    assert agent.runs()
    agent.terminate()
    agent.leaves()


@beside
def test_fodc_o8_sigterm_leaves_with_a_full_send_buffer(stage):
    page = "".join(f'long{{id="{n}",text="{"x" * 300}"}} {n}\n' for n in range(10_000))
    exporter = stage.exporter(page)
    proxy = stage.proxy(wire.NEWEST)
    tap = stage.tap(proxy.address)
    agent = stage.our_agent(tap.address, exporter)
    stream = proxy.metrics_stream()
    until(lambda: (stream.send(wire.question()), named(stream.next(25), "long"))[1], "the long page", 40)
    tap.takes.clear()
    for _ in range(10):
        stream.send(wire.question())
    time.sleep(2)
    assert agent.runs()
    agent.terminate()
    agent.leaves()


@beside
def test_fodc_o8_an_answer_that_is_not_taken_holds_up_no_heartbeat(stage):
    page = "".join(f'long{{id="{n}",text="{"x" * 300}"}} {n}\n' for n in range(8_000))
    proxy = stage.proxy(wire.NEWEST)
    stage.our_agent(proxy.address, stage.exporter(page))
    stream = proxy.metrics_stream()
    until(lambda: named(proxy.ask(seconds=25), "long"), "the long page", 40)
    proxy.takes.clear()
    received = len(stream.received)
    for _ in range(8):
        stream.send(wire.question())
    stream.next(25)
    proxy.heartbeats(len(proxy.heartbeats(0)) + 4, 40)
    assert len(stream.received) == received + 1
    proxy.takes.set()
    for _ in range(7):
        assert named(stream.next(40), "long")
    assert len(proxy.registrations) == 1


@beside
def test_fodc_f3_an_agent_whose_answer_got_stuck_finds_the_next_proxy(stage):
    page = "".join(f'long{{id="{n}",text="{"x" * 300}"}} {n}\n' for n in range(10_000))
    first, second = stage.proxy(wire.NEWEST), stage.proxy(wire.UNTYPED_RELEASE)
    tap = stage.tap(first.address)
    stage.our_agent(tap.address, stage.exporter(page))
    stream = first.metrics_stream()
    until(lambda: (stream.send(wire.question()), named(stream.next(25), "long"))[1], "the long page", 40)
    tap.takes.clear()
    for _ in range(10):
        stream.send(wire.question())
    time.sleep(2)
    tap.target = second.address
    tap.cut()
    tap.takes.set()
    second.registered(seconds=40)
    assert second.ask(seconds=25).HasField("timestamp")
    assert (len(first.registrations), len(second.registrations)) == (1, 1)


@beside
def test_sigterm_leaves_a_proxy_that_takes_connections_and_says_nothing(stage):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        agent = stage.our_agent(f"127.0.0.1:{deaf.getsockname()[1]}", stage.exporter())
        connection, _ = deaf.accept()
        with connection:
            agent.terminate()
            agent.leaves()


def test_an_agent_that_leaves_ends_its_streams_in_order(stage):
    proxy = stage.proxy(wire.NEWEST)
    agent = own(stage, proxy, stage.exporter())
    proxy.metrics_stream()
    proxy.heartbeats(1)
    agent.terminate()
    agent.leaves()
    until(lambda: not any(stream.open for stream in proxy.streams), "the end of the streams")
    assert len(proxy.registrations) == 1


@beside
def test_req_x9_a_killed_agent_continues_its_record(stage):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    exporter = stage.exporter()
    record = stage.folder("record")
    settings = {"in_memory": None, "data": record, "poll_metrics_interval": "200ms"}
    first = stage.our_agent(proxy.address, exporter, **settings)
    before = has_recorded(proxy, 6)
    first.kill()
    stage.our_agent(proxy.address, exporter, **settings)
    proxy.registered(2)
    until(lambda: len(points(proxy.ask(start=before[-1][0] + 0.001))) > 4, "readings after the restart")
    after = true(points(proxy.ask(end=time.time() + 60)), exporter)
    assert after[: len(before)] == before


@beside
def test_an_idle_uplink_to_a_proxy_that_never_speaks_stays_and_sends_no_ping(stage):
    proxy = stage.proxy(wire.SEED, heartbeat=10)
    tap = stage.tap(proxy.address)
    agent = stage.our_agent(tap.address, stage.exporter())
    proxy.registered()
    # The proxy's life is asked for in the one way that every version answers.
    until(lambda: HEALTH in proxy.calls, "that it is asked for life", 50)
    proxy.heartbeats(3, 50)
    assert (len(proxy.registrations), tap.connections) == (1, 1)
    assert (tap.sent[PING], tap.came[GOAWAY]) == (0, 0)
    assert proxy.ask().HasField("timestamp")
    assert agent.runs()
    agent.terminate()
    agent.leaves()
    assert tap.sent[PING] == 0
