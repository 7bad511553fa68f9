"""Our client and grpcio's server, with TLS, client certificates and tokens."""

import contextlib
import time

import pytest

from peers.security import Authority, TokenGate
from peers.server import Server
from peers.waiting import until


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


@pytest.fixture
def server_with(opened):
    """Starts plain servers that demand something."""

    def start(**demands):
        server = Server(**demands)
        opened.callback(server.kill)
        return server

    return start


def delivers(server, subscriber, document):
    server.wait_for_subscription("users")
    subscriber.ready()
    server.publish("users", document, {})
    assert subscriber.next()["id"] == document


def test_changes_arrive_over_tls_and_a_wrong_authority_is_named(authority, server_with, subscriber_to, tmp_path):
    server = server_with(credentials=authority.credentials())
    delivers(server, subscriber_to(f"https://{server.address}", "users", ca=authority.file), "u1")
    stranger = Authority(tmp_path / "stranger")
    refused = subscriber_to(f"https://localhost:{server.port}", "users", ca=stranger.file)
    refused.noted(f"https://localhost:{server.port} (127.0.0.1:{server.port}): TLS: ")
    refused.noted("give the CA file of its authority")


def test_a_client_certificate_is_sent_and_its_absence_explained(authority, server_with, subscriber_to):
    server = server_with(credentials=authority.credentials(clients=True))
    url = f"https://localhost:{server.port}"
    anonymous = subscriber_to(url, "users", ca=authority.file)
    anonymous.noted(url)
    anonymous.noted("check whether the server requires a client certificate")
    known = subscriber_to(url, "users", ca=authority.file, **authority.identity("me@example.org"))
    delivers(server, known, "u1")


def test_a_token_that_is_replaced_costs_one_refusal(authority, server_with, subscriber_to, tmp_path):
    gate = TokenGate("first-secret")
    server = server_with(credentials=authority.credentials(), interceptors=[gate])
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    url = f"https://localhost:{server.port}"
    subscriber = subscriber_to(url, "users", ca=authority.file, token_file=token)
    delivers(server, subscriber, "u1")
    assert gate.calls == ["Bearer first-secret"]

    # Whoever writes the file is late: the old token is refused, and the new one found.
    gate.accepted = "second-secret"
    server.end_streams()
    until(lambda: gate.count() >= 2, "a call with the old token")
    token.write_text("second-secret\n")
    subscriber.noted("connected again")
    assert gate.calls[-1] == "Bearer second-secret"
    assert gate.calls.count("Bearer second-secret") == 1
    server.publish("users", "u2", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]
    assert not [note for note in subscriber.notes if "secret" in note]


def test_a_token_that_is_always_refused_causes_no_storm(server_with, subscriber_to, tmp_path):
    gate = TokenGate("another")
    server = server_with(interceptors=[gate])
    token = tmp_path / "token"
    token.write_text("wrong-secret\n")
    subscriber = subscriber_to(server.address, "users", token_file=token)
    until(lambda: gate.count() >= 2, "a second attempt")
    before, began = gate.count(), time.monotonic()
    # The backoff of the tests grows from 50 ms to 500 ms, with a jitter of a fifth.
    with contextlib.suppress(AssertionError):
        until(lambda: gate.count() > before + 50, "a storm", 5)
    seconds = time.monotonic() - began
    assert seconds >= 5, f"{gate.count() - before} attempts in {seconds} s"
    assert 4 <= gate.count() - before <= 4 + 5 / 0.4
    subscriber.noted("16")
    assert not [note for note in subscriber.notes if "secret" in note]
    gate.accepted = "wrong-secret"
    delivers(server, subscriber, "u1")
