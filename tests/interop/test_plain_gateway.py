"""A plain gateway talks to our server: what a Go gateway relies on, and what it suffered from."""

import json
import time

import pytest

from peers import wire
from peers.binary import OurServer
from peers.waiting import until

INSERT, UPDATE, DELETE = (
    wire.messages.OperationType.Value(f"OPERATION_TYPE_{name}") for name in ("INSERT", "UPDATE", "DELETE")
)


@pytest.fixture
def gateway(our_server, gateway_to):
    stream = gateway_to(our_server.address)
    yield stream
    assert stream.unknown_fields == 0, "the profile was sent to a peer that never asked for it"


def test_changes_arrive_with_their_kind_and_document(our_server, gateway):
    response = gateway.subscribe("s1", "users")
    assert (response.subscription_id, response.success, response.error) == ("s1", True, "")
    our_server.publish("users", {"id": "u1", "name": "Ada"}, {"id": "u1", "name": "Bo"}, {"id": "u1", "op": "delete"})

    seen = [gateway.delivery() for _ in range(3)]
    assert [delivery.subscription_ids for delivery in seen] == [["s1"]] * 3
    events = [delivery.event for delivery in seen]
    assert [event.operation for event in events] == [INSERT, UPDATE, DELETE]
    for event in events:
        assert (event.database, event.collection, event.document_id) == ("default", "users", "u1")
        assert abs(event.timestamp - time.time() * 1000) < 60_000
        assert event.event_id
    documents = [json.loads(event.document_data) for event in events]
    assert [document.get("name") for document in documents] == ["Ada", "Bo", None]
    assert [document["version"] for document in documents] == [1, 2, 3]
    assert [document.get("deleted") for document in documents] == [None, None, True]
    for document in documents:
        assert {"createdAt", "updatedAt"} <= document.keys()
        assert not {"id", "collection"} & document.keys()


def test_whole_numbers_arrive_to_the_last_digit(our_server, gateway):
    gateway.subscribe("s1", "numbers", ("n", "==", 9007199254740993))
    our_server.publish("numbers", '{"id":"a","n":9007199254740992}\n', '{"id":"b","n":9007199254740993}\n')
    event = gateway.delivery().event
    assert event.document_id == "b"
    assert b"9007199254740993" in event.document_data


def test_a_too_large_document_is_refused_when_published(our_server, gateway):
    gateway.subscribe("s1", "users")
    done = our_server.try_publish("users", {"id": "big", "text": "x" * (4 * 2**20 - 1000)})
    assert done.returncode == 1
    assert "refused" in done.stderr
    our_server.publish("users", {"id": "u1", "text": "x" * 2**19})
    assert gateway.delivery().event.document_id == "u1"


def test_a_heartbeat_is_echoed(gateway):
    assert gateway.echo(1_700_000_000_123) == 1_700_000_000_123
    assert gateway.echo(0) == 0


def test_one_change_for_two_subscriptions_is_one_delivery(our_server, gateway):
    gateway.subscribe("condition", "users", ("age", ">=", 18))
    gateway.subscribe("collection", "users")
    gateway.subscribe("document", "users", ("_id", "==", "u1"))
    our_server.publish("users", {"id": "u1", "age": 20}, {"id": "u2", "age": 3})
    assert gateway.delivery().subscription_ids == ["document", "collection", "condition"]
    assert gateway.delivery().subscription_ids == ["collection"]


def test_a_delete_reaches_its_document_once_and_with_its_id(our_server, gateway):
    our_server.publish("users", {"id": "u1", "age": 20})
    gateway.subscribe("document", "users", ("_id", "==", "u1"))
    gateway.subscribe("collection", "users")
    our_server.publish("users", {"id": "u1", "op": "delete"})
    delivery = gateway.delivery()
    assert delivery.subscription_ids == ["document", "collection"]
    assert (delivery.event.operation, delivery.event.document_id) == (DELETE, "u1")


@pytest.mark.parametrize(
    ("symbol", "word", "value"),
    [
        ("==", "eq", 5),
        ("!=", "ne", 6),
        (">", "gt", 4),
        (">=", "gte", 5),
        ("<", "lt", 6),
        ("<=", "lte", 5),
        ("in", "in", [4, 5.0, "x"]),
    ],
)
def test_both_spellings_mean_the_same(our_server, gateway, symbol, word, value):
    assert gateway.subscribe("symbol", "users", ("n", symbol, value)).success
    assert gateway.subscribe("word", "users", ("n", word, value)).success
    our_server.publish("users", {"id": "u1", "n": 5})
    assert sorted(gateway.delivery().subscription_ids) == ["symbol", "word"]


def test_contains_finds_elements_and_keys(our_server, gateway):
    gateway.subscribe("element", "users", ("tags", "contains", "a"))
    gateway.subscribe("key", "users", ("address", "contains", "city"))
    our_server.publish("users", {"id": "u1", "tags": ["a"]}, {"id": "u2", "address": {"city": "x"}})
    assert gateway.delivery().subscription_ids == ["element"]
    assert gateway.delivery().subscription_ids == ["key"]


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (("age", "array-contains", 1), "unsupported operator: array-contains"),
        (("age", "", 1), "unsupported operator: "),
        (("age", "==", None), "unsupported proto value type: <nil>"),
    ],
)
def test_refusals_have_the_texts_of_the_go_server(gateway, condition, text):
    response = gateway.subscribe("s1", "users", condition)
    assert not response.success
    assert response.subscription_id == "s1"
    assert response.error.startswith("failed to compile filters: ")
    assert text in response.error
    assert gateway.echo(7) == 7, "the stream goes on"


@pytest.mark.parametrize("value", [5, "", None, ["u1"]])
def test_an_invalid_id_is_refused(gateway, value):
    response = gateway.subscribe("s1", "users", ("_id", "==", value))
    assert not response.success
    assert response.error


def test_a_value_is_data_and_never_an_expression(our_server, gateway):
    for number, text in enumerate(["zz\\' || true //", "'] || true", "a\nb", "C:\\temp", '"'], 1):
        assert gateway.subscribe(f"s{number}", "users", ("name", "==", text)).success
        our_server.publish("users", {"id": "other", "name": "zz"}, {"id": "it", "name": text})
        delivery = gateway.delivery()
        assert (delivery.subscription_ids, delivery.event.document_id) == ([f"s{number}"], "it")


def test_an_empty_id_is_chosen_by_the_server(our_server, gateway):
    first, second = gateway.subscribe("", "users"), gateway.subscribe("", "users")
    assert first.success and second.success
    assert first.subscription_id and first.subscription_id != second.subscription_id
    our_server.publish("users", {"id": "u1"})
    assert gateway.delivery().subscription_ids == [first.subscription_id, second.subscription_id]


def test_a_repeated_id_replaces_the_definition(our_server, gateway):
    assert gateway.subscribe("s1", "users").success
    assert gateway.subscribe("s1", "orders").success
    our_server.publish("users", {"id": "u1"})
    our_server.publish("orders", {"id": "o1"})
    assert gateway.delivery().event.document_id == "o1"


def test_an_unsubscribe_is_not_answered_and_holds(our_server, gateway):
    gateway.subscribe("s1", "users")
    gateway.subscribe("s2", "orders")
    gateway.send(wire.unsubscribe("s1"))
    gateway.send(wire.unsubscribe("nobody"))
    gateway.echo()
    our_server.publish("users", {"id": "u1"})
    our_server.publish("orders", {"id": "o1"})
    assert gateway.next().delivery.event.document_id == "o1", "nothing stands before it"


def test_a_message_without_payload_is_ignored(gateway):
    gateway.send(wire.messages.GatewayMessage())
    assert gateway.echo(7) == 7


def test_an_id_cannot_be_ended_from_another_stream(our_server, gateway, gateway_to):
    gateway.subscribe("s1", "users")
    other = gateway_to(our_server.address)
    other.send(wire.unsubscribe("s1"))
    other.echo()
    our_server.publish("users", {"id": "u1"})
    assert gateway.delivery().subscription_ids == ["s1"]


def test_a_newer_stream_takes_an_id_over_and_leaves_the_others(our_server, gateway, gateway_to):
    gateway.subscribe("s1", "users")
    gateway.subscribe("s2", "users")
    newer = gateway_to(our_server.address)
    assert newer.subscribe("s1", "users").success
    our_server.publish("users", {"id": "u1"})
    assert newer.delivery().subscription_ids == ["s1"]
    assert gateway.delivery().subscription_ids == ["s2"]
    assert gateway.echo(7) == 7, "the older stream goes on"


def test_a_cut_restores_the_same_ids_on_a_new_connection(our_server, gateway_to, relay_to):
    relay = relay_to(our_server.address)
    for outage in range(3):
        stream = gateway_to(relay.address)
        for number in range(20):
            assert stream.subscribe(f"s{number}", "users").success, "nothing is still held"
        our_server.publish("users", {"id": f"u{outage}"})
        delivery = stream.delivery()
        assert sorted(delivery.subscription_ids) == sorted(f"s{number}" for number in range(20))
        assert delivery.event.document_id == f"u{outage}"
        relay.cut()
    assert relay.accepted == 3


def test_a_gateway_that_does_not_read_delays_nobody(our_server, gateway_to, relay_to):
    relay = relay_to(our_server.address)
    stuck, fast = gateway_to(relay.address), gateway_to(our_server.address)
    assert stuck.subscribe("stuck", "bulk").success
    assert fast.subscribe("fast", "users").success
    relay.swallow()
    our_server.publish("bulk", *({"id": f"b{n}", "text": "x" * 10_000} for n in range(500)))
    began = time.monotonic()
    our_server.publish("users", {"id": "u1"})
    assert fast.delivery().subscription_ids == ["fast"]
    assert time.monotonic() - began < 3


def test_an_orderly_stop_ends_the_streams(our_server, gateway):
    gateway.subscribe("s1", "users")
    our_server.terminate()
    gateway.end(seconds=15)
    assert our_server.wait() == 0


def test_a_document_is_still_known_after_a_kill(binary, tmp_path, gateway_to):
    first = OurServer(binary, tmp_path / "log")
    try:
        first.publish("users", {"id": "u1", "name": "Ada"})
    finally:
        first.kill()
    second = OurServer(binary, tmp_path / "log")
    try:
        stream = gateway_to(second.address)
        stream.subscribe("s1", "users")
        second.publish("users", {"id": "u1", "name": "Bo"})
        event = stream.delivery().event
        assert event.operation == UPDATE
        assert json.loads(event.document_data)["version"] == 2
    finally:
        second.kill()
