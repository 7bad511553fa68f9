"""A plain gateway: a grpcio client of one stream."""

import queue
import threading

import grpc

from . import wire
from .waiting import TIMEOUT

_END = object()


def _unknown(message):
    """The number of fields that a plain peer does not know; an unknown payload is one."""
    payload = isinstance(message, wire.messages.StreamerMessage) and message.WhichOneof("payload") is None
    return len(wire.unknown_fields(message)) + payload


class Gateway:
    """One stream to a Streamer server. Messages are kept in order, and checked for fields that a plain
    peer does not know."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._outgoing = queue.SimpleQueue()
        self._incoming = queue.SimpleQueue()
        self._pending = []
        self.status = None
        self.unknown_fields = 0
        self._call = wire.service.StreamerServiceStub(self._channel).Stream(iter(self._outgoing.get, _END))
        self._headers = threading.Event()
        threading.Thread(target=self._receive, daemon=True).start()
        threading.Thread(target=self._await_headers, daemon=True).start()

    def _await_headers(self):
        self._call.initial_metadata()
        self._headers.set()

    def _receive(self):
        try:
            for message in self._call:
                self.unknown_fields += _unknown(message)
                self._incoming.put(message)
        except grpc.RpcError:
            pass
        self.status = (self._call.code(), self._call.details())
        self._incoming.put(_END)

    def send(self, message):
        self._outgoing.put(message)

    def half_close(self):
        self._outgoing.put(_END)

    def next(self, kind=None, seconds=TIMEOUT):
        """The next message, or the next of that kind; others stay for later calls."""
        for at, message in enumerate(self._pending):
            if kind in (None, message.WhichOneof("payload")):
                return self._pending.pop(at)
        while True:
            try:
                message = self._incoming.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no {kind or 'message'} within {seconds} s") from None
            if message is _END:
                self._incoming.put(_END)
                raise EOFError(f"the stream ended with {self.status}")
            if kind in (None, message.WhichOneof("payload")):
                return message
            self._pending.append(message)

    def subscribe(self, *args, **kwargs):
        """Subscribes and returns the response."""
        self.send(wire.subscribe(*args, **kwargs))
        return self.next("subscribe_response").subscribe_response

    def echo(self, timestamp=1_700_000_000_123):
        """Sends a heartbeat and returns the timestamp of its ack. Everything the server was asked
        before is answered by then."""
        self.send(wire.heartbeat("plain-gateway", timestamp))
        return self.next("heartbeat_ack").heartbeat_ack.timestamp

    def delivery(self, seconds=TIMEOUT):
        return self.next("delivery", seconds).delivery

    def end(self, seconds=TIMEOUT):
        """Waits for the end of the stream and returns its status: (code, details)."""
        while True:
            try:
                self.next(seconds=seconds)
            except EOFError:
                return self.status

    def has_headers(self):
        """Returns true once the server's headers have arrived."""
        return self._headers.is_set()

    def close(self):
        self._call.cancel()
        self._outgoing.put(_END)
        self._channel.close()
