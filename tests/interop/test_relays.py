"""Our clients and our server with relays between them, and the example against an etcd, all of them with TLS
and client certificates. The programs are those of the system's packages."""

import base64
import subprocess
import time

import pytest

from peers.binary import OurPublisher, OurServer
from peers.programs import Etcd, Haproxy, Nginx
from peers.security import Authority
from peers.waiting import TIMEOUT, until

POLICY = """
[[grants]]
role = "all"
databases = ["**"]
collections = ["**"]
actions = ["subscribe", "publish"]

[[members]]
roles = ["all"]
principals = ["token:someone"]
"""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@pytest.fixture
def secure_server(binary, authority, tmp_path):
    """A server that demands a client certificate and a token, and the file of the token."""
    policy, token = tmp_path / "access.toml", tmp_path / "token"
    made = subprocess.run(
        [binary, "token", "new", "someone", "--out", token], capture_output=True, text=True, timeout=TIMEOUT)
    assert made.returncode == 0, made.stderr
    policy.write_text(made.stdout + POLICY)
    own = authority.identity("localhost", "127.0.0.1", of="server")
    flags = {"--tls-cert": own["cert"], "--tls-key": own["key"], "--tls-client-ca": authority.file, "--access": policy}
    server = OurServer(binary, tmp_path / "log", *(word for pair in flags.items() for word in pair))
    yield server, token
    server.kill()


@pytest.fixture(params=[Nginx, Haproxy], ids=["nginx", "haproxy"])
def relay_with(request, secure_server, authority, tmp_path, opened):
    """Starts a relay in front of the server that cuts what is idle for this long."""

    def start(idle):
        relay = request.param(tmp_path / "relay")
        opened.callback(relay.kill)
        front = authority.identity("localhost", "127.0.0.1", of="front")
        back = authority.identity("relay.test", of="back")
        relay.relay(secure_server[0].address, front, back, authority.file, idle)
        return relay

    return start


def receives_each_once(subscriber, count):
    """Checks that the documents arrive in order, each once, and nothing else."""
    for number in range(count):
        item = subscriber.next()
        assert (item["type"], item.get("id")) == ("change", f"d{number}"), subscriber.notes
    time.sleep(0.3)
    assert subscriber.items_so_far() == []


@pytest.fixture
def clients_of(binary, secure_server, authority, subscriber_to, opened):
    """Starts a subscriber and a publisher through a relay. Neither has a certificate: the relay has one."""

    def start(relay, **times):
        url, token = f"https://localhost:{relay.address.split(':')[1]}", secure_server[1]
        subscriber = subscriber_to(url, "orders", ca=authority.file, token_file=token, **times)
        subscriber.ready()
        publisher = OurPublisher(
            binary, url, "orders", "--ca", authority.file, "--token-file", token, "--initial-backoff", "50ms",
            "--max-backoff", "500ms", *(["--heartbeat", times["heartbeat"]] if times else []))
        opened.callback(publisher.kill)
        return subscriber, publisher

    return start


def test_reloads_of_a_relay_lose_and_repeat_nothing(relay_with, clients_of):
    relay = relay_with("60s")
    subscriber, publisher = clients_of(relay)
    for number in range(200):
        if number % 50 == 25:
            relay.reload()
        publisher.publish({"id": f"d{number}"})
        time.sleep(0.02)
    publisher.finish()
    receives_each_once(subscriber, 200)
    # The relay has ended the streams of before each reload, if not those of one that was too quick.
    subscriber.noted("connected again", times=2)


def test_idle_streams_that_a_relay_cuts_lose_and_repeat_nothing(relay_with, clients_of):
    relay = relay_with("1s")
    # Fewer heartbeats than the relay demands.
    subscriber, publisher = clients_of(relay, heartbeat="30s", activity_timeout="90s")
    for number in range(12):
        publisher.publish({"id": f"d{number}"})
        # Sometimes longer than the relay waits.
        time.sleep(0.2 if number % 3 else 1.5)
    publisher.finish()
    receives_each_once(subscriber, 12)
    subscriber.noted("connected again", times=2)


def test_etcd_with_client_certificates_loses_and_repeats_nothing(binary, authority, tmp_path, opened):
    etcd = Etcd(tmp_path / "etcd")
    opened.callback(etcd.kill)
    etcd.serve(authority.identity("localhost", "127.0.0.1", of="server"), authority.file)
    client = authority.identity("me@example.org")
    example = binary.parent / "examples" / "etcd_watch"
    assert example.exists(), f"{example}: `cargo xtask test` builds it, and so does `cargo build --example etcd_watch`"
    watch = subprocess.Popen(
        [example, f"https://{etcd.address}", "a", "z", authority.file, client["cert"], client["key"]],
        stdout=open(tmp_path / "seen", "wb"))
    opened.callback(watch.wait, TIMEOUT)
    opened.callback(watch.kill)

    def put(key):
        pair = {"key": base64.b64encode(key.encode()).decode(), "value": ""}
        return int(etcd.call("put", client, **pair)["header"]["revision"])

    def seen():
        return (tmp_path / "seen").read_text().splitlines()

    # The watch begins with the first key that it shows.
    until(lambda: put("begin") and seen(), "the watch has begun")
    expected = seen()[-1:]
    for number in range(30):
        if number % 10 == 5:
            etcd.restart()
        key = f"key{number}"
        expected.append(f"{put(key)} Put {key}")
    until(lambda: seen()[-1:] == expected[-1:], "the last change")
    shown = [line for line in seen() if "begin" not in line]
    assert shown == expected[1:]
