"""The plain peers of FODC do what the Go programs do; otherwise the other tests prove nothing."""

import concurrent.futures
import signal
import threading
import time

import grpc
import pytest
from peers import fodc_http
from peers import fodc_wire as wire
from peers.fodc_agent import Series
from peers.relay import GOAWAY, PING
from peers.waiting import until

T = 1_767_225_600
BUSY = Series(
    "jobs_queued", {"queue": "a,b"}, "queued jobs", wire.GAUGE, [(T, 7.0), (T + 10, 9.5), (T + 20, 1.0)]
)


@pytest.fixture(scope="module")
def binary():
    """Nothing of ours takes part."""


def test_vectors_of_the_go_runtime():
    node = wire.Node(pod="p0")
    assert node.registration(wire.NEWEST).SerializeToString().hex() == (
        "0a09524f4c455f44415441120b0a04747970651203686f74220270302a0464617461"
    )
    seed = node.registration(wire.SEED).SerializeToString().hex()
    assert seed.endswith("1a0e0a0831302e302e302e3110f88b01")
    assert wire.query().SerializeToString() == b""
    assert wire.query(T, T + 60).SerializeToString().hex() == "0a060880f2d6ca06120608bcf2d6ca06"


def test_a_version_does_not_know_what_came_later():
    newest = wire.Node().registration(wire.NEWEST).SerializeToString()
    seed = wire.Node().registration(wire.SEED).SerializeToString()
    assert wire.unknown_fields(wire.SEED.registration.FromString(newest)) == {4, 5}
    assert wire.unknown_fields(wire.NEWEST.registration.FromString(seed)) == {3}
    response = wire.NEWEST.response(metrics=[wire.NEWEST.metric(name="m", type=wire.COUNTER)])
    assert wire.unknown_fields(wire.UNTYPED_RELEASE.response.FromString(response.SerializeToString())) == {6}
    assert wire.unknown_fields(wire.TYPED_RELEASE.response.FromString(response.SerializeToString())) == set()


def test_agent_and_proxy_of_one_version_understand_each_other(stage):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda version: understand(stage, version), wire.VERSIONS))


def understand(stage, version):
    proxy = stage.proxy(version)
    agent = stage.agent(version, proxy.address, series=[BUSY])
    proxy.registered()
    [latest] = proxy.query().metrics
    assert (latest.name, latest.value, latest.HasField("timestamp")) == ("jobs_queued", 1.0, False)
    assert latest.labels == {"queue": "a,b"} | wire.Node().stamp(version)
    edges = [(T, T + 10), (T + 0.5, T + 20), (None, T), (T + 11, None), (T + 21, None)]
    times = [[wire.seconds(m.timestamp) - T for m in proxy.query(*window).metrics] for window in edges]
    assert times == [[0, 10], [10, 20], [0], [20], []]
    assert proxy.heartbeats(2) == [agent.node.registration(version)] * len(proxy.heartbeats(2))
    assert len(proxy.registrations) == 1
    assert [proxy.open_streams(method) != [] for method in version.methods] == [True] * len(version.methods)
    assert len(proxy.connections()) == 1
    assert (agent.unasked, agent.endings, agent.unknown_fields) == ([], [], set())


def test_headers_come_with_the_first_message_only(stage):
    proxy = stage.proxy(wire.NEWEST)
    agent = stage.agent(wire.NEWEST, proxy.address)
    proxy.registered()
    call = agent.call(wire.METRICS).call
    headers = threading.Event()
    threading.Thread(target=lambda: (call.initial_metadata(), headers.set()), daemon=True).start()
    proxy.heartbeats(2)
    assert not headers.is_set()
    proxy.query()
    assert headers.wait(20)
    assert agent.unasked == []


def test_a_refusal_is_a_message_and_then_unknown(stage):
    proxy = stage.proxy(wire.NEWEST, max_agents=1)
    stage.agent(wire.NEWEST, proxy.address)
    proxy.registered()
    late = stage.agent(wire.NEWEST, proxy.address)
    nameless = stage.agent(wire.NEWEST, stage.proxy(wire.NEWEST).address, node=wire.Node(role=""))
    full = "maximum number of agents (1) reached"
    until(lambda: late.refusals, "a refusal")
    assert late.refusals[0] == (full, grpc.StatusCode.UNKNOWN, full)
    until(lambda: nameless.refusals, "a refusal")
    assert "node role cannot be empty" in nameless.refusals[0][0]


def test_seed_proxy_dies_of_a_release_which_refuses_a_seed(stage):
    seed = stage.proxy(wire.SEED, dies=True)
    stage.agent(wire.NEWEST, seed.address)
    until(lambda: seed.faults, "the death of the seed")
    release = stage.proxy(wire.UNTYPED_RELEASE)
    agent = stage.agent(wire.SEED, release.address)
    until(lambda: agent.gave_up, "that the seed stops for good")
    assert agent.refusals[0][0] == "pod name cannot be empty"


def test_an_answer_above_the_limit_ends_the_stream(stage):
    proxy = stage.proxy(wire.TYPED_RELEASE)
    huge = Series("m", {"text": "x" * (5 << 20)}, samples=[(T, 1.0)])
    agent = stage.agent(wire.TYPED_RELEASE, proxy.address, series=[huge])
    with pytest.raises(AssertionError):
        proxy.query(seconds=1)
    until(lambda: agent.endings, "the end of the stream")
    assert agent.endings[0][:2] == (wire.METRICS, grpc.StatusCode.RESOURCE_EXHAUSTED)
    proxy.registered(2)


def test_proxy_without_health_service_punishes_pings(stage):
    proxy = stage.proxy(wire.SEED)
    relay = stage.relay(proxy.address)
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(relay.address, options=options) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        with pytest.raises(grpc.RpcError) as refused:
            check(b"", timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        until(lambda: relay.came[GOAWAY], "GOAWAY")
        assert relay.sent[PING] >= 2
    assert proxy.calls == ["/grpc.health.v1.Health/Check"]


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_what_each_version_does_after_the_loss_of_its_streams(stage, version):
    proxy = stage.proxy(version)
    agent = stage.agent(version, proxy.address)
    proxy.metrics_stream().end()
    if version.recovers == "never":
        until(lambda: agent.gave_up, "the end")
    else:
        proxy.registered(2)
    port = proxy.port
    proxy.kill()
    if version.recovers == "once":
        until(lambda: agent.gave_up, "the end")
    again = stage.proxy(version, port=port)
    if version.recovers == "always":
        again.registered()
    else:
        assert agent.gave_up and not again.registrations


def test_a_frozen_proxy_takes_nothing_and_lives_again(stage):
    proxy = stage.proxy_process(wire.NEWEST)
    proxy.signal(signal.SIGSTOP)
    agent = stage.agent(wire.NEWEST, proxy.address)
    time.sleep(0.3)
    assert not agent.ids
    proxy.signal(signal.SIGCONT)
    agent.registered()
    proxy.registered()


def test_the_page_reader_is_strict():
    good = '# TYPE a gauge\na{x="q\\"\\\\\\n,}"} 1.5\na NaN\n# TYPE h histogram\nh_bucket{le="+Inf"} 2\nh_sum 3\n'
    page = fodc_http.Page(good)
    assert page.named("a")[1] == ({"x": 'q"\\\n,}'}, 1.5)
    assert page.types == {"a": "gauge", "h": "histogram"}
    for bad in (
        "a 1",
        "# TYPE a gauge\na 1\na 2\n",
        "# TYPE a gauge\n# TYPE a counter\n",
        "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\n",
        "# TYPE a gauge\nb 1\n",
        '# TYPE a gauge\na{x="q"y"} 1\n',
        '# TYPE a gauge\na{x="1",x="2"} 1\n',
        "# TYPE a gauge\na 1e21\n",
    ):
        with pytest.raises(AssertionError):
            fodc_http.Page(bad)
