"""Our client talks to a plain server that behaves as the Go program does."""

import socket
import time

import grpc
import pytest

from peers.server import Server
from peers.waiting import until


def change(item):
    """The fields that identify a change."""
    return (item["type"], item.get("op"), item.get("id"))


def test_a_subscription_is_asked_for_and_its_changes_are_printed(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users", "age >= 18", "name == Ada")
    request = plain_server.wait_for_subscription("users")
    assert request.database == "default"
    assert request.subscription_id
    assert [(f.field, f.op) for f in request.filters] == [("age", ">="), ("name", "==")]
    assert request.filters[0].value.int_value == 18
    assert request.filters[1].value.string_value == "Ada"

    plain_server.publish("users", "u1", {"name": "Ada", "version": 1})
    plain_server.publish("users", "u1", {"name": "Ada", "version": 2}, "UPDATE")
    plain_server.publish("users", "u1", {"version": 3, "deleted": True}, "DELETE")
    items = [subscriber.next() for _ in range(3)]
    assert [change(item) for item in items] == [
        ("change", "insert", "u1"),
        ("change", "update", "u1"),
        ("change", "delete", "u1"),
    ]
    assert items[0]["data"] == {"name": "Ada", "version": 1}
    assert items[0]["timestamp"] == 1_700_000_000_123


def test_heartbeats_carry_a_name_and_the_time(plain_server, subscriber_to):
    subscriber_to(plain_server.address, "users", heartbeat="100ms")
    beats = until(lambda: len(plain_server.heartbeats()) >= 5 and plain_server.heartbeats(), "five heartbeats")
    assert all(beat.gateway_id for beat in beats)
    stamps = [beat.timestamp for beat in beats]
    assert stamps == sorted(set(stamps))
    assert all(abs(stamp - time.time() * 1000) < 60_000 for stamp in stamps)


def test_a_plain_server_is_offered_the_profile_only_once(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users")
    plain_server.wait_for_subscription("users")
    for number in range(600):
        plain_server.publish("users", f"u{number}", {})
    for number in range(600):
        assert subscriber.next()["id"] == f"u{number}"
    assert len(plain_server.unknown()) <= 1, "the hello, and no credit after it"


def test_a_subscription_named_twice_gets_one_change(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users")
    plain_server.wait_for_subscription("users")
    plain_server.publish("users", "u1", {}, repeat=2)
    plain_server.publish("users", "u2", {})
    assert [subscriber.next()["id"] for _ in range(2)] == ["u1", "u2"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.UNKNOWN])
def test_a_stream_ended_by_the_server_is_restored_with_one_gap(plain_server, subscriber_to, code):
    subscriber = subscriber_to(plain_server.address, "users")
    first = plain_server.wait_for_subscription("users")
    subscriber.ready()
    plain_server.publish("users", "u1", {})
    assert subscriber.next()["id"] == "u1"
    plain_server.end_streams(code)
    until(lambda: len(plain_server.subscribes("users")) >= 2, "the second request")
    again = plain_server.subscribes("users")[-1]
    assert again.subscription_id == first.subscription_id
    subscriber.noted("connected again")
    plain_server.publish("users", "u2", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]
    assert subscriber.items_so_far() == []


def test_a_cut_is_restored_on_a_new_connection_with_one_gap(plain_server, subscriber_to, relay_to):
    relay = relay_to(plain_server.address)
    subscriber = subscriber_to(relay.address, "users")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    for outage in range(1, 4):
        relay.cut()
        subscriber.noted("connected again", times=outage)
        plain_server.publish("users", f"u{outage}", {})
        assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]
    assert relay.accepted == 4


def test_an_id_still_held_by_the_dead_stream_is_reclaimed(plain_server, subscriber_to, relay_to):
    relay = relay_to(plain_server.address)
    subscriber = subscriber_to(relay.address, "users")
    first = plain_server.wait_for_subscription("users")
    subscriber.ready()
    relay.cut_near()
    subscriber.noted("connected again")
    plain_server.publish("users", "u1", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]
    assert [r.subscription_id for r in plain_server.subscribes("users")].count(first.subscription_id) >= 3


def test_a_black_holed_connection_is_replaced_by_another(plain_server, subscriber_to, relay_to):
    relay = relay_to(plain_server.address)
    subscriber = subscriber_to(relay.address, "users", activity_timeout="1s", heartbeat="300ms")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    relay.swallow()
    began = time.monotonic()
    subscriber.noted("connection lost")
    assert time.monotonic() - began < 3, "silence of 1 s was noticed late"
    subscriber.noted("connected again")
    assert relay.accepted == 2, "a new TCP connection, and one only"
    plain_server.publish("users", "u1", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]


def test_a_server_that_falls_silent_is_left(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users", activity_timeout="1s")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    plain_server.muted = True
    subscriber.noted("connection lost")
    plain_server.muted = False
    subscriber.noted("connected again")
    plain_server.publish("users", "u1", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]


def test_a_silent_eviction_is_found_and_reported(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users", activity_timeout="1s")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    plain_server.publish("users", "u1", {})
    assert subscriber.next()["id"] == "u1"
    until(lambda: len(plain_server.subscribes("users")) >= 2, "a repetition of the known id")
    plain_server.evict()
    subscriber.noted("connected again")
    plain_server.publish("users", "u2", {})
    assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]


@pytest.mark.parametrize("plain_server", ["words"], indirect=True)
def test_a_server_with_the_older_spelling_is_understood(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users", "age >= 18", "name in [\"Ada\"]")
    request = plain_server.wait_for_subscription("users")
    subscriber.ready()
    assert [f.op for f in request.filters] == ["gte", "in"]
    plain_server.publish("users", "u1", {})
    assert subscriber.next()["id"] == "u1"
    plain_server.end_streams()
    subscriber.noted("connected again")
    spelled = [r.filters[0].op for r in plain_server.subscribes("users")]
    assert spelled[0] == ">=" and spelled.count(">=") == 1, "the spelling is kept"


@pytest.mark.parametrize(
    "text",
    [
        "failed to compile filters: CEL compile error: undeclared reference",
        "failed to compile filters: unsupported operator: ~",
        "too many subscriptions",
    ],
)
def test_a_refusal_ends_the_program_with_the_servers_text(plain_server, subscriber_to, text):
    plain_server.refusals["users"] = text
    subscriber = subscriber_to(plain_server.address, "users", "age >= 18")
    assert subscriber.wait() not in (0, None)
    subscriber.noted(text)


def test_a_server_that_starts_later_is_found(subscriber_to):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    subscriber = subscriber_to(f"127.0.0.1:{port}", "users")
    time.sleep(0.5)
    server = Server(port=port)
    try:
        server.wait_for_subscription("users")
        server.publish("users", "u1", {})
        assert change(subscriber.next()) == ("change", "insert", "u1"), "and no gap before the first"
    finally:
        server.kill()


def test_a_restarted_server_is_found_again(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    plain_server.kill()
    subscriber.noted("connection lost")
    successor = Server(port=plain_server.port)
    try:
        successor.wait_for_subscription("users")
        subscriber.noted("connected again")
        successor.publish("users", "u1", {})
        assert [subscriber.next()["type"] for _ in range(2)] == ["gap", "change"]
    finally:
        successor.kill()


def test_the_end_of_the_program_frees_its_ids(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users", limit=1)
    plain_server.wait_for_subscription("users")
    plain_server.publish("users", "u1", {})
    assert subscriber.wait(5) == 0
    until(lambda: not plain_server.registered, "no id is held")


def test_an_interrupt_ends_the_program_in_order(plain_server, subscriber_to):
    subscriber = subscriber_to(plain_server.address, "users")
    plain_server.wait_for_subscription("users")
    subscriber.ready()
    subscriber.terminate()
    assert subscriber.wait(5) == 0
    until(lambda: not plain_server.registered, "no id is held")
