"""Our gateway behind an nginx and with TLS, as pages, programs and `curl` use it: the JavaScript client in Node, a
client of the classic protocol, and server-sent events of both protocols."""

import contextlib
import http.client
import json
import ssl
import time

import pytest

from peers.binary import OurGateway
from peers.node import Events, NodeProgram, connect
from peers.programs import Nginx
from peers.security import Authority

CLASSIC_EVENTS = "/realtime/v1/databases/shop/sse?collection=orders"
EVENTS = "/v1/databases/shop/collections/orders/changes"


@pytest.fixture
def gateway_with(binary, our_server, opened):
    """Starts gateways."""

    def start(*flags):
        gateway = OurGateway(binary, our_server.address, *flags)
        opened.callback(gateway.kill)
        return gateway

    return start


@pytest.fixture
def nginx_to(tmp_path, opened):
    """Starts an nginx in front of a gateway, which cuts what says nothing for this long."""

    def start(gateway, idle, **options):
        nginx = Nginx(tmp_path / "nginx")
        opened.callback(nginx.kill)
        nginx.relay_http(gateway.address, idle, **options)
        return nginx

    return start


@pytest.fixture
def program(opened):
    def start(name, url, **options):
        program = NodeProgram(name, url, **options)
        opened.callback(program.kill)
        return program

    return start


@pytest.fixture
def events_of(opened):
    return lambda *args, **options: opened.enter_context(contextlib.closing(Events(*args, **options)))


@pytest.fixture
def all_clients(program, events_of):
    """Connects a client of each kind. Returns a function for each that returns the number of its next document."""

    def start(address, tls=None, ca=None):
        url = f"{'https' if tls else 'http'}://{address}"
        ours, classic = program("follow", url, ca=ca), program("classic", url, ca=ca)
        events, classic_events = events_of(address, EVENTS, tls), events_of(address, CLASSIC_EVENTS, tls)
        assert ours.next() == "live"
        assert classic.next() == "subscribe_ack"
        return {
            "ours": lambda: int(ours.next()),
            "classic": lambda: int(classic.next()),
            "events": lambda: events.next()["data"]["n"],
            "classic events": lambda: classic_events.next()["payload"]["delta"]["document"]["n"],
        }

    return start


def publish(server, *numbers):
    server.publish("orders", *({"id": f"d{n}", "n": n} for n in numbers), database="shop")


@pytest.mark.parametrize("events", [EVENTS, CLASSIC_EVENTS], ids=["ours", "classic"])
def test_relay_that_buffers_passes_events_on_at_once(our_server, gateway_with, nginx_to, events_of, events):
    # To its upstream it speaks HTTP/1.0 by default; a response of HTTP/1.1 has parts, which it passes on one by one.
    relay = nginx_to(gateway_with(), "60s", version="1.0")
    events = events_of(relay.address, events, seconds=10)
    for number in range(3):
        publish(our_server, number)
        events.next()


def test_relay_that_ignores_our_wish_holds_events_back(our_server, gateway_with, nginx_to, events_of):
    # The test above would prove nothing if this one failed.
    relay = nginx_to(gateway_with(), "60s", version="1.0", more="proxy_ignore_headers X-Accel-Buffering;")
    with pytest.raises(TimeoutError):
        events = events_of(relay.address, EVENTS, seconds=2)
        publish(our_server, 1)
        events.next()


@pytest.mark.timeout(120)
def test_relay_does_not_find_quiet_connections_idle(our_server, gateway_with, nginx_to, all_clients):
    gateway = gateway_with()
    # Longer than the interval of all heartbeats, 25 s, by what a busy machine may need.
    clients = all_clients(nginx_to(gateway, "29s").address)
    time.sleep(34)
    publish(our_server, 1)
    assert {name: next() for name, next in clients.items()} == dict.fromkeys(clients, 1)
    connection = connect(gateway.address)
    connection.request("GET", "/v1/status")
    sockets = json.load(connection.getresponse())["gateway"]["sockets"]
    connection.close()
    # None has connected again.
    assert len(sockets) == len(clients)
    assert all(socket["openSeconds"] >= 34 for socket in sockets), sockets


def test_sockets_that_a_relay_cuts_lose_and_repeat_nothing(our_server, gateway_with, nginx_to, program):
    relay = nginx_to(gateway_with(), "1s")
    follower = program("follow", f"http://{relay.address}")
    assert follower.next() == "live"
    for number in range(6):
        publish(our_server, number)
        # Sometimes longer than the relay waits.
        time.sleep(0.2 if number % 2 else 1.5)
    assert [follower.next() for _ in range(6)] == [str(number) for number in range(6)]
    assert follower.next(seconds=0.5) is None


def test_gateway_with_tls_serves_every_kind_of_client(our_server, gateway_with, all_clients, program, tmp_path):
    authority = Authority(tmp_path / "authority")
    own = authority.identity("localhost", "127.0.0.1", of="gateway")
    gateway = gateway_with("--tls-cert", own["cert"], "--tls-key", own["key"])
    tls = ssl.create_default_context(cafile=authority.file)
    clients = all_clients(gateway.address, tls, authority.file)
    connection = connect(gateway.address, tls)
    connection.request("POST", "/v1/databases/shop/collections/orders", json.dumps({"id": "a", "n": 7}))
    position = json.load(connection.getresponse())["position"]
    assert {name: next() for name, next in clients.items()} == dict.fromkeys(clients, 7)
    connection.request("GET", f"/v1/databases/shop/collections/orders?fields=n&at={position}")
    assert json.load(connection.getresponse()) == {"id": "a", "n": 7}
    connection.close()
    # Who does not know the authority, and who speaks no TLS, gets nothing.
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(gateway.address, ssl.create_default_context()).request("GET", "/")
    plain = connect(gateway.address)
    plain.request("GET", "/")
    with pytest.raises((OSError, http.client.HTTPException)):
        plain.getresponse()
    assert program("follow", f"https://{gateway.address}").next(seconds=3) is None
