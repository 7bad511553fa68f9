"""The plain peers of these tests do what the Go programs do; otherwise the other tests prove
nothing."""

import grpc
import pytest

from peers import wire
from peers.waiting import until


def test_vectors_of_the_go_runtime():
    request = wire.subscribe("s1", "users", ("age", ">=", 18), ("tag", "in", ["a", 1.5, True]))
    assert request.SerializeToString().hex() == (
        "0a460a027331120575736572731a0d0a0361676512023e3d1a0210121a210a037461671202696e1a162a140a03"
        "0a01610a0919000000000000f83f0a022001220764656661756c74"
    )
    assert wire.heartbeat("g", 1_700_000_000_123).SerializeToString().hex() == "1a0a0a016710fbd095ffbc31"


def test_a_known_id_is_refused_until_its_stream_ends(plain_server, gateway_to):
    first, second = gateway_to(plain_server.address), gateway_to(plain_server.address)
    assert first.subscribe("s1", "users").success
    for stream in (first, second):
        response = stream.subscribe("s1", "users")
        assert (response.success, response.error) == (False, "subscription ID already exists")
    first.half_close()
    assert first.end() == (grpc.StatusCode.UNKNOWN, "EOF")
    assert second.subscribe("s1", "users").success


def test_headers_come_with_the_first_message(plain_server, gateway_to):
    stream = gateway_to(plain_server.address)
    with pytest.raises(AssertionError):
        stream.next(seconds=0.3)
    assert not stream.has_headers()
    assert stream.echo(42) == 42
    until(stream.has_headers, "the headers")


@pytest.mark.parametrize("plain_server", ["words"], indirect=True)
def test_the_other_spelling_is_refused_with_the_go_text(plain_server, gateway_to):
    stream = gateway_to(plain_server.address)
    response = stream.subscribe("s1", "users", ("age", ">=", 18))
    assert response.error == "failed to compile filters: unsupported operator: >="
    assert stream.subscribe("s1", "users", ("age", "gte", 18)).success


def test_a_delivery_names_each_subscription_of_its_stream(plain_server, gateway_to):
    stream = gateway_to(plain_server.address)
    stream.subscribe("s1", "users")
    stream.subscribe("s2", "users")
    assert plain_server.publish("users", "u1", {"version": 1}) == 1
    assert stream.delivery().subscription_ids == ["s1", "s2"]


def test_the_relay_swallows_cuts_and_tears(plain_server, gateway_to, relay_to):
    relay = relay_to(plain_server.address)
    swallowed = gateway_to(relay.address)
    swallowed.subscribe("s1", "users")
    relay.swallow()
    swallowed.send(wire.heartbeat())
    with pytest.raises(AssertionError):
        swallowed.next(seconds=0.5)

    torn = gateway_to(relay.address)
    torn.subscribe("s2", "users")
    relay.cut_near()
    assert torn.end()[0] == grpc.StatusCode.UNAVAILABLE
    assert plain_server.publish("users", "u1", {}) == 2, "the server still holds both"
