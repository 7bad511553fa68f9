"""A plain Streamer server that behaves as the Go program does, faults included where peers must
live with them: one namespace of ids for all streams, a known id refused, no headers before the
first message, UNKNOWN "EOF" at half-close."""

import json
import queue
import threading
from concurrent import futures

import grpc

from . import wire
from .waiting import until

_END = object()

SYMBOLS = ("==", "!=", ">", ">=", "<", "<=", "in", "contains")
WORDS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "contains")


class _Stream:
    """One open call."""

    def __init__(self):
        self.outgoing = queue.SimpleQueue()
        # Evicted: requests still get responses, but there are no more deliveries.
        self.deaf = False


class Server(wire.service.StreamerServiceServicer):
    """A server on a port of its own. `operators` is the spelling it takes; the other is refused.
    With `credentials` it speaks TLS."""

    def __init__(self, operators=SYMBOLS, port=0, credentials=None, interceptors=()):
        self.operators = operators
        self.lock = threading.Lock()
        self.registered = {}
        self.streams = []
        self.received = []
        self.refusals = {}
        self.muted = False
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=16), interceptors=interceptors)
        wire.service.add_StreamerServiceServicer_to_server(self, self._grpc)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._grpc.add_secure_port(address, credentials)
            if credentials
            else self._grpc.add_insecure_port(address)
        )
        self.address = f"127.0.0.1:{self.port}"
        self._grpc.start()

    # The service.

    def Stream(self, requests, context):
        stream = _Stream()
        with self.lock:
            self.streams.append(stream)
        context.add_callback(lambda: self._ended(stream))
        reader = threading.Thread(target=self._read, args=(stream, requests), daemon=True)
        reader.start()
        for message in iter(stream.outgoing.get, _END):
            if isinstance(message, tuple):
                # The ids are free before the peer learns of the end.
                self._ended(stream)
                context.abort(*message)
            yield message

    def _read(self, stream, requests):
        try:
            for message in requests:
                with self.lock:
                    self.received.append(message)
                    reply = None if self.muted else self._reply(stream, message)
                if reply is not None:
                    stream.outgoing.put(reply)
        except grpc.RpcError:
            pass
        stream.outgoing.put((grpc.StatusCode.UNKNOWN, "EOF"))

    def _reply(self, stream, message):
        kind = message.WhichOneof("payload")
        if kind == "heartbeat":
            ack = wire.messages.HeartbeatAck(timestamp=message.heartbeat.timestamp)
            return wire.messages.StreamerMessage(heartbeat_ack=ack)
        if kind == "unsubscribe":
            self.registered.pop(message.unsubscribe.subscription_id, None)
        if kind == "subscribe":
            request = message.subscribe
            error = self._refusal(request)
            if not error:
                self.registered[request.subscription_id] = (stream, request)
            return wire.messages.StreamerMessage(
                subscribe_response=wire.messages.SubscribeResponse(
                    subscription_id=request.subscription_id, success=not error, error=error
                )
            )
        return None

    def _refusal(self, request):
        if request.collection in self.refusals:
            return self.refusals[request.collection]
        if request.subscription_id in self.registered:
            return "subscription ID already exists"
        for condition in request.filters:
            if condition.op not in self.operators:
                return f"failed to compile filters: unsupported operator: {condition.op}"
            if condition.value.WhichOneof("kind") is None:
                return "failed to compile filters: value is nil"
        return ""

    def _ended(self, stream):
        with self.lock:
            self.registered = {k: v for k, v in self.registered.items() if v[0] is not stream}
            if stream in self.streams:
                self.streams.remove(stream)
        stream.outgoing.put(_END)

    # The interface for tests.

    def publish(self, collection, document_id, data, operation="INSERT", database="default", repeat=1):
        """Delivers a change to each stream with a subscription to the collection, once a stream,
        each id named `repeat` times; returns how many streams that were."""
        event = wire.messages.StreamerEvent(
            event_id=f"1-1-{document_id}",
            database=database,
            collection=collection,
            document_id=document_id,
            operation=wire.messages.OperationType.Value(f"OPERATION_TYPE_{operation}"),
            document_data=json.dumps(data).encode(),
            timestamp=1_700_000_000_123,
        )
        with self.lock:
            ids = {}
            for name, (stream, request) in self.registered.items():
                wanted = (request.database, request.collection) == (database, collection)
                if wanted and not stream.deaf and not self.muted:
                    ids.setdefault(stream, []).extend([name] * repeat)
            for stream, names in ids.items():
                delivery = wire.messages.EventDelivery(subscription_ids=names, event=event)
                stream.outgoing.put(wire.messages.StreamerMessage(delivery=delivery))
        return len(ids)

    def wait_for_subscription(self, collection):
        """Waits until a stream subscribes to the collection and returns the request."""

        def find():
            with self.lock:
                return [r for _, r in self.registered.values() if r.collection == collection]

        return until(find, f"a subscription to {collection}")[0]

    def subscribes(self, collection):
        """Every subscribe request for the collection, in order, refused ones included."""
        with self.lock:
            asked = [m.subscribe for m in self.received if m.WhichOneof("payload") == "subscribe"]
        return [request for request in asked if request.collection == collection]

    def heartbeats(self):
        with self.lock:
            return [m.heartbeat for m in self.received if m.WhichOneof("payload") == "heartbeat"]

    def unknown(self):
        """Returns the messages with a payload that this server does not know."""
        with self.lock:
            return [m for m in self.received if m.WhichOneof("payload") is None]

    def evict(self):
        """Drops every stream's subscriptions without a word, as the Go server does with one that
        was slow: the streams stay open."""
        with self.lock:
            self.registered.clear()
            for stream in self.streams:
                stream.deaf = True

    def end_streams(self, code=grpc.StatusCode.UNAVAILABLE, details="going away"):
        """Ends each open stream with a status."""
        with self.lock:
            streams = list(self.streams)
        for stream in streams:
            stream.outgoing.put((code, details))

    def kill(self):
        """Drops every connection and stops listening. Can be repeated."""
        self._grpc.stop(None).wait(10)
        with self.lock:
            streams = list(self.streams)
        for stream in streams:
            stream.outgoing.put(_END)
