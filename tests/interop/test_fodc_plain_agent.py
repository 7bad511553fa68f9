"""Agents that behave as the Go programs, against our proxy: the behaviour they need, and known defects."""

import concurrent.futures
import contextlib
import dataclasses
import time

import grpc
import pytest

from peers import fodc_wire as wire
from peers.fodc_agent import REGISTRATIONS_MAX, Call, Series
from peers.relay import GOAWAY, PING
from peers.waiting import until

# Two minutes ago, a whole second.
T = int(time.time()) - 120
QUEUED = Series(
    "jobs_queued",
    {"queue": "a,b", "type": "file"},
    "queued jobs",
    wire.GAUGE,
    [(T, 7), (T + 10, 9.5), (T + 20, 1)],
)
DONE = Series("jobs_done_total", {}, "done jobs", wire.COUNTER, [(T, 10), (T + 10, 20)])
TOOK = [
    Series("job_seconds_bucket", {"le": "1"}, "", wire.HISTOGRAM, [(T, 3)]),
    Series("job_seconds_bucket", {"le": "+Inf"}, "", wire.HISTOGRAM, [(T, 5)]),
    Series("job_seconds_sum", {}, "", wire.HISTOGRAM, [(T, 4.25)]),
    Series("job_seconds_count", {}, "", wire.HISTOGRAM, [(T, 5)]),
]
ODD = Series(
    "odd", {"text": 'a"b\\c\nd,é'}, "", wire.GAUGE, [(T, float("nan")), (T + 1, float("-inf")), (T + 2, 1e21)]
)
SERIES = [QUEUED, DONE, *TOOK, ODD]


def unharmed(*agents):
    """Each registered once, lost no stream, and received nothing that its version does not know."""
    for agent in agents:
        assert (len(agent.ids), agent.endings, agent.refusals) == (1, [], [])
        assert (agent.unknown_fields, agent.unasked) == (set(), [])


def stamped(version):
    """The labels that the agent and the proxy add to a sample of the usual node."""
    node = wire.Node()
    labels = {"node_role": node.role, "pod_name": node.name(version), "node_type": "hot"}
    return labels | ({"container_name": "data"} if version.has_pods else {})


def raw(stage, address, method, agent_id=None):
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    stage.callback(channel.close)
    reads = wire.messages.RegisterAgentResponse if method == wire.REGISTER else None
    return Call(channel, method, reads, agent_id)


def attached(stage, version=wire.NEWEST, series=(QUEUED,), **flags):
    """Our proxy with those flags, and an agent of that version that it knows."""
    proxy = stage.our_proxy(**flags)
    agent = stage.agent(version, proxy.address, series=series)
    proxy.knows(agent)
    return proxy, agent


def one_of_each(stage, proxy):
    """An agent of each version that the proxy knows, on a pod named for its version."""
    agents = [
        stage.agent(version, proxy.address, node=wire.Node(pod=version.name), series=[QUEUED])
        for version in wire.VERSIONS
    ]
    proxy.knows(*agents)
    return agents


def complete(proxy):
    """Waits until no agent is missing from the latest values."""
    until(lambda: proxy.get("/metrics").missing is None, "a response of every agent")


def end_of(call):
    """Waits for the end of the stream: (code, details)."""
    with contextlib.suppress(grpc.RpcError):
        list(call.call)
    return call.call.code(), call.call.details()


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_each_version_registers_and_sends_metrics_in_its_shapes(stage, version):
    proxy, agent = attached(stage, version, SERIES)

    page = proxy.page()
    assert page.one("jobs_queued") == (QUEUED.labels | stamped(version), 1)
    assert page.one("jobs_done_total") == (stamped(version), 20)
    assert page.one("odd") == (ODD.labels | stamped(version), 1e21)
    assert [value for _, value in page.named("job_seconds_bucket")] == [5, 3]
    assert (page.types["jobs_queued"], page.types["job_seconds"]) == ("gauge", "histogram")
    assert page.types["jobs_done_total"] == ("counter" if version.has_types else "gauge")

    elements = {
        (element["name"], element["labels"].get("le")): element
        for element in proxy.windows(start_time=wire.rfc3339(T), end_time=wire.rfc3339(T + 10))
    }
    assert len(elements) == len(SERIES)
    queued = elements["jobs_queued", None]
    place = {"pod_name": wire.Node().name(version)} | (
        {} if version.has_pods else {"ip": "10.0.0.1", "port": 17912}
    )
    assert queued == place | {
        "agent_id": agent.ids[0],
        "name": "jobs_queued",
        "description": "queued jobs",
        "labels": QUEUED.labels | stamped(version),
        "data": [
            {"timestamp": wire.rfc3339(T), "value": 7},
            {"timestamp": wire.rfc3339(T + 10), "value": 9.5},
        ],
    }
    # O30: values without a JSON number change nothing else.
    assert [point["value"] for point in elements["odd", None]["data"]] == ["NaN", "-Inf", 1e21]

    health = proxy.health()
    assert health.pop("uptime_seconds") >= 0
    assert health == {"agents_online": 1, "agents_total": 1, "status": "healthy"}
    assert list(proxy.agents()) == agent.ids
    assert proxy.agents()[agent.ids[0]]["dialect"] == ("pod" if version.has_pods else "address")
    unharmed(agent)


@pytest.fixture
def mixed(stage):
    """Our proxy and an agent of each version, each on a pod of its own."""
    proxy = stage.our_proxy()
    agents = {}
    for number, version in enumerate(wire.VERSIONS):
        role = "ROLE_LIAISON" if version is wire.TYPED_RELEASE else "ROLE_DATA"
        node = wire.Node(pod=f"Db-{number}", ip=f"10.0.0.{number + 1}", role=role)
        agents[version] = stage.agent(version, proxy.address, node=node, series=SERIES)
    proxy.knows(*agents.values())
    return proxy, agents


def test_mixed_versions_have_one_type_for_each_family(mixed):
    proxy, agents = mixed
    page = proxy.page()
    assert {name: page.types[name] for name in ("jobs_queued", "jobs_done_total", "job_seconds")} == {
        "jobs_queued": "gauge",
        "jobs_done_total": "counter",
        "job_seconds": "histogram",
    }
    assert len(page.named("jobs_queued")) == len(page.named("job_seconds_sum")) == len(agents)
    assert page.pods() == {agent.node.name(version) for version, agent in agents.items()}
    assert proxy.health()["agents_online"] == len(agents)
    unharmed(*agents.values())


def test_filters_select_agents_by_their_registration(mixed):
    proxy, agents = mixed
    seed, untyped, typed, newest = (agent.node.name(version) for version, agent in agents.items())
    for parameters, pods in (
        ({"role": "ROLE_LIAISON"}, {typed}),
        ({"role": "ROLE_DATA"}, {seed, untyped, newest}),
        ({"role": "ROLE_META"}, set()),
        ({"pod_name": "db-1"}, {untyped}),
        ({"pod_name": "Db-1"}, {untyped}),
        ({"pod_name": "Db"}, set()),
        ({"pod_name": seed}, {seed}),
        ({"address": "10.0.0.1"}, {seed}),
        ({"address": "10.0.0.1:17912"}, {seed}),
        ({"address": "10.0.0.4"}, set()),
        ({"role": "ROLE_DATA", "pod_name": "db-3"}, {newest}),
        ({"role": "ROLE_LIAISON", "pod_name": "db-3"}, set()),
    ):
        assert proxy.page(**parameters).pods() == pods, parameters
        window = proxy.windows(start_time=wire.rfc3339(T), end_time=wire.rfc3339(T + 10), **parameters)
        assert {element["pod_name"] for element in window} == pods, parameters
        if not pods:
            assert proxy.get("/metrics", **parameters).text == ""
            assert window == []
    # An agent that the filter excludes gets no query.
    assert len(agents[wire.TYPED_RELEASE].queries) == 2


@pytest.mark.parametrize("version", wire.VERSIONS, ids=str)
def test_a_metrics_stream_reopened_alone_receives_queries(stage, version):
    proxy, agent = attached(stage, version)
    assert proxy.page().one("jobs_queued")[1] == 1
    for _ in range(3):
        agent.reopen_metrics()
        complete(proxy)
        assert proxy.page().one("jobs_queued")[1] == 1
    assert proxy.health()["agents_total"] == 1
    unharmed(agent)


def test_seven_streams_are_held_with_one_registration(stage):
    proxy = stage.our_proxy()
    agents = one_of_each(stage, proxy)
    # Messages that nobody asked for are accepted and cost nothing.
    newest = agents[-1]
    newest.call("StreamCrashDiagnostics").send(wire.messages.RegisterAgentResponse(message="a crash"))

    def beaten():
        return all(agent["heartbeats"] >= 5 for agent in proxy.agents().values())

    until(beaten, "five heartbeats of each", 25)
    held = proxy.agents()[newest.ids[0]]["streams"]
    assert sorted(held) == sorted(wire.NEWEST.methods[1:])
    assert set(held.values()) == {1}
    assert proxy.page().pods() == {agent.node.name(agent.version) for agent in agents}
    assert proxy.health()["agents_total"] == len(agents)
    unharmed(*agents)


def test_a_silent_agent_delays_only_the_first_response(stage):
    proxy = stage.our_proxy(agent_deadline="6s", window_deadline="6s")
    silent = stage.agent(wire.NEWEST, proxy.address, node=wire.Node(pod="silent"), series=[QUEUED])
    other = stage.agent(
        wire.UNTYPED_RELEASE, proxy.address, node=wire.Node(pod="other", role="ROLE_LIAISON"), series=[QUEUED]
    )
    proxy.knows(silent, other)
    silent.responses.clear()
    begun = time.monotonic()
    # F8: the proxy waits only for agents that the filter selects.
    assert proxy.page(role="ROLE_LIAISON").pods() == {"other"}
    assert time.monotonic() - begun < 5
    for which in ("first", "second", "third"):
        begun = time.monotonic()
        response = proxy.get("/metrics")
        took = time.monotonic() - begun
        assert (took > 5.5) == (which == "first"), (which, took)
        why = "late" if which == "first" else "silent"
        assert (response.status, response.missing) == (200, f"1; silent={why}")
        assert response.text.count("\njobs_queued{") == 1
    # O27: a late response does not answer another query.
    silent.series = [Series("jobs_queued", samples=[(T, 1), (T + 1, 42)])]
    silent.responses.set()
    complete(proxy)
    [(_, value)] = [
        sample for sample in proxy.page().named("jobs_queued") if sample[0]["pod_name"] == "silent"
    ]
    assert value == 42
    unharmed(silent, other)


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "unmeasured"])
def test_a_late_window_does_not_answer_the_next_query(stage, measured):
    proxy, agent = attached(stage, wire.UNTYPED_RELEASE, agent_deadline="1s", window_deadline="1s")
    if measured:
        # Before its latest values are known, no window is requested.
        assert proxy.page().one("jobs_queued")[1] == 1
    agent.responses.clear()
    late = proxy.get("/metrics-windows", start_time=wire.rfc3339(T), end_time=wire.rfc3339(T + 10))
    assert (late.missing, late.json) == ("1; db-0=late", [])
    assert agent.queries[-1].HasField("start_time") == measured
    with concurrent.futures.ThreadPoolExecutor() as pool:
        latest = pool.submit(proxy.get, "/metrics")
        window = pool.submit(
            proxy.get, "/metrics-windows", start_time=wire.rfc3339(T + 20), end_time=wire.rfc3339(T + 30)
        )
        time.sleep(0.2)
        agent.responses.set()
        for line in latest.result().text.splitlines():
            assert line.startswith("#") or line.endswith(" 1"), "the late window was served"
        for element in window.result().json:
            assert [point["value"] for point in element["data"]] == [1], "the late window was served"
    complete(proxy)
    assert proxy.page().one("jobs_queued")[1] == 1
    unharmed(agent)


def test_overlapping_requests_get_their_own_responses(stage):
    proxy = stage.our_proxy(agent_deadline="30s", window_deadline="30s")
    agents = one_of_each(stage, proxy)
    for agent in agents:
        response = agent.response
        agent.response = lambda query, response=response: (time.sleep(0.1), response(query))[1]

    def window(offset):
        return proxy.windows(start_time=wire.rfc3339(T + offset), end_time=wire.rfc3339(T + offset))

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        windows = [(offset, pool.submit(window, offset)) for offset in (0, 10, 20) * 3]
        pages = [pool.submit(proxy.page) for _ in range(3)]
        for offset, found in windows:
            data = [element["data"] for element in found.result()]
            value = {0: 7, 10: 9.5, 20: 1}[offset]
            assert data == [[{"timestamp": wire.rfc3339(T + offset), "value": value}]] * len(agents)
        for page in pages:
            assert [value for _, value in page.result().named("jobs_queued")] == [1] * len(agents)
    unharmed(*agents)


def test_a_forgotten_agent_hears_that_it_is_not_found(stage):
    proxy = stage.our_proxy(
        agent_heartbeat_timeout="1s", agent_cleanup_timeout="2s", heartbeat_interval="500ms"
    )
    call = raw(stage, proxy.address, wire.REGISTER)
    call.send(wire.Node().registration(wire.UNTYPED_RELEASE))
    response = next(call.call)
    # An interval below a second is not sent.
    assert response.heartbeat_interval_seconds == 0
    assert end_of(call) == (grpc.StatusCode.UNKNOWN, f"agent {response.agent_id} not found")
    assert proxy.agents() == {}


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (wire.messages.RegisterAgentRequest(), "node role cannot be empty"),
        (wire.messages.RegisterAgentRequest(pod_name="db-0"), "node role cannot be empty"),
        (wire.messages.RegisterAgentRequest(node_role="ROLE_DATA"), "pod name cannot be empty"),
        (
            wire.messages.SeedRegisterAgentRequest(
                node_role="ROLE_DATA", primary_address=wire.messages.SeedAddress(ip="10.0.0.1")
            ),
            "pod name cannot be empty",
        ),
    ],
)
def test_an_incomplete_registration_is_refused(stage, request_, text):
    proxy = stage.our_proxy()
    call = raw(stage, proxy.address, wire.REGISTER)
    call.send(request_)
    response = next(call.call)
    assert not response.success and text in response.message
    assert end_of(call) == (grpc.StatusCode.UNKNOWN, response.message)
    stage.agent(wire.SEED, proxy.address).registered()
    assert proxy.health()["agents_total"] == 1


def test_a_stream_needs_an_agent_id_in_its_metadata(stage):
    proxy, agent = attached(stage)
    nameless = raw(stage, proxy.address, wire.METRICS)
    code, details = end_of(nameless)
    assert code == grpc.StatusCode.UNAUTHENTICATED and "agent" in details.lower()
    stranger = raw(stage, proxy.address, wire.METRICS, agent_id="nobody")
    stranger.send(wire.NEWEST.response())
    for _ in range(3):
        assert proxy.page().one("jobs_queued")[1] == 1
    assert stranger.call.is_active()
    stranger.half_close()
    assert end_of(stranger)[0] == grpc.StatusCode.OK
    unharmed(agent)


@pytest.mark.parametrize("version", [wire.TYPED_RELEASE, wire.NEWEST], ids=str)
def test_a_returning_agent_is_not_counted_twice(stage, version):
    proxy, agent = attached(stage, version)
    for count in (2, 3):
        agent.drop()
        agent.registered(count)
        proxy.knows(agent)
        # The agent may return before the proxy notices that it left.
        until(lambda: proxy.health()["agents_total"] == 1, "that it is there once")
        assert proxy.page().one("jobs_queued")[1] == 1
    assert len(agent.ids) == 3


def test_a_torn_connection_shows_its_agent_twice_only_briefly(stage):
    proxy = stage.our_proxy(agent_heartbeat_timeout="3s")
    relay = stage.relay(proxy.address)
    agent = stage.agent(wire.NEWEST, relay.address, series=[QUEUED])
    proxy.knows(agent)
    relay.cut_near()
    agent.registered(2)
    # While both are known they are told apart; then none is missing.
    until(lambda: proxy.health()["agents_total"] == 1, "that the old one is gone")
    proxy.knows(agent)
    assert proxy.page().one("jobs_queued")[1] == 1
    assert agent.ids[-1] in proxy.agents()


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "asked"])
def test_sigterm_ends_the_proxy_with_agents_attached(stage, asked):
    proxy = stage.our_proxy()
    agents = one_of_each(stage, proxy)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        if asked:
            for agent in agents:
                agent.responses.clear()
            waiting = pool.submit(proxy.get, "/metrics")
            until(lambda: all(agent.queries for agent in agents), "that all are asked")
        proxy.terminate()
        # Immediately, not at the deadline of an orderly stop.
        proxy.leaves(3)
        if asked:
            waiting.exception()
    # The first version never comes back by itself; the others found the streams ended.
    until(lambda: all(agent.endings for agent in agents), "that every agent knows")


def test_our_proxy_sends_one_ping_and_that_when_it_goes(stage):
    proxy = stage.our_proxy()
    relay = stage.relay(proxy.address)
    agent = stage.agent(wire.NEWEST, relay.address, series=[QUEUED])
    proxy.knows(agent)
    proxy.page()
    time.sleep(3)
    assert (relay.came[PING], relay.came[GOAWAY]) == (0, 0)
    connections = relay.accepted
    proxy.terminate()
    proxy.leaves()
    until(lambda: agent.endings, "that the agent knows")
    assert relay.came[GOAWAY] >= 1
    # As a Go server that stops sends it.
    assert relay.came[PING] == connections


def test_a_response_of_the_newest_agents_may_exceed_4_mib(stage):
    proxy = stage.our_proxy(agent_deadline="40s")
    series = [
        Series("long", {"id": str(n), "text": "x" * 300}, "", wire.GAUGE, [(T, n)]) for n in range(20_000)
    ]
    agent = stage.agent(wire.NEWEST, proxy.address, series=series)
    proxy.knows(agent)
    assert agent.response(wire.query()).ByteSize() > 5 << 20
    response = proxy.get("/metrics", seconds=45)
    assert response.missing is None
    values = sorted(
        float(line.rpartition(" ")[2]) for line in response.text.splitlines() if line.startswith("long{")
    )
    assert values == list(range(20_000))
    assert list(proxy.agents()) == agent.ids
    unharmed(agent)


def test_a_role_known_later_is_shown_and_never_lost(stage):
    proxy = stage.our_proxy()
    unresolved = wire.Node(role="ROLE_UNSPECIFIED", labels={})
    agent = stage.agent(wire.NEWEST, proxy.address, node=unresolved, series=[QUEUED])
    proxy.knows(agent)
    agent.node = wire.Node(role="ROLE_LIAISON")
    until(lambda: "jobs_queued" in proxy.get("/metrics", role="ROLE_LIAISON").text, "the role")
    agent.node = unresolved
    beats = proxy.agents()[agent.ids[0]]["heartbeats"]
    until(lambda: proxy.agents()[agent.ids[0]]["heartbeats"] > beats + 1, "heartbeats without a role")
    assert proxy.agents()[agent.ids[0]]["role"] == "ROLE_LIAISON"
    unharmed(agent)


def test_a_query_right_after_the_registration_gets_a_response(stage):
    proxy = stage.our_proxy()
    agent = stage.agent(wire.NEWEST, proxy.address, series=[QUEUED])
    agent.registered()
    assert proxy.get("/metrics").status == 200
    until(lambda: "jobs_queued" in proxy.get("/metrics").text, "its metrics")
    unharmed(agent)


def test_agents_come_back_once_to_a_proxy_that_restarts(stage):
    proxy = stage.our_proxy()
    release = stage.agent(wire.TYPED_RELEASE, proxy.address, node=wire.Node(pod="release"), series=[QUEUED])
    newest = stage.agent(wire.NEWEST, proxy.address, node=wire.Node(pod="newest"), series=[QUEUED])
    proxy.knows(release, newest)
    proxy.terminate()
    proxy.leaves()
    # A release that finds no proxy gives up for good.
    until(lambda: release.gave_up, "that the release gives up")
    again = stage.our_proxy(grpc_listen_addr=proxy.address, http_listen_addr=proxy.http)
    newest.registered(2)
    again.knows(newest)
    assert again.page().pods() == {"newest"}
    assert len(newest.ids) == 2


def test_what_a_go_agent_lets_through_is_still_a_page(stage):
    proxy = stage.our_proxy()
    odd = [
        # Its parser accepts names that begin with a digit, and loses labels, so that series collide.
        Series("9lives", {"0": "zero"}, "a\\b\nc", 0, [(T, 1)]),
        Series("twice", {}, "", wire.GAUGE, [(T, 1)]),
        Series("twice", {}, "", wire.GAUGE, [(T, 2)]),
        Series("", {}, "", 0, [(T, 1)]),
        Series("empty", {"none": ""}, "", 0, [(T, 1)]),
        # O39: labels that an agent has too.
        Series("own", {"pod_name": "another", "agent_id": "mine"}, "", wire.GAUGE, [(T, 1)]),
    ]
    agent = stage.agent(wire.NEWEST, proxy.address, series=odd)
    # It overwrites labels of the same name; an agent that does not has a series of its own.
    plain = stage.agent(wire.SEED, proxy.address, series=odd)
    proxy.knows(agent, plain)
    page = proxy.page()
    assert len(page.named("twice")) == len(page.named("empty")) == 2
    lives = [name for name, _ in page.samples if name.endswith("lives")]
    assert len(lives) == 2
    assert {labels["pod_name"] for labels, _ in page.named("own")} == {"db-0", "another"}
    window = proxy.windows(start_time=wire.rfc3339(T), end_time=wire.rfc3339(T))
    assert {"9lives", "twice", "empty", "own"} <= {element["name"] for element in window}
    unharmed(agent, plain)


def test_an_agent_in_a_storm_does_not_fill_the_registry(stage):
    proxy = stage.our_proxy(max_agents="2")
    future = dataclasses.replace(wire.NEWEST, methods=(*wire.NEWEST.methods, "StreamOfTheFuture"))
    agent = stage.agent(future, proxy.address)
    until(lambda: agent.gave_up, "the end of the storm", 50)
    assert (len(agent.ids), agent.refusals) == (REGISTRATIONS_MAX, [])
    assert agent.endings[0][1] == grpc.StatusCode.UNIMPLEMENTED
    assert proxy.health()["agents_total"] == 1
    other = stage.agent(wire.NEWEST, proxy.address, node=wire.Node(pod="other"), series=[QUEUED])
    proxy.knows(other)
    unharmed(other)
