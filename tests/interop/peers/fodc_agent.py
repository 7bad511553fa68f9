"""A plain FODC agent that behaves as the Go programs do: it opens its streams in the order of its
version, sends whole registrations as heartbeats, answers one query after the other in one message
each, and tears everything down when any of its streams ends."""

import contextlib
import dataclasses
import queue
import threading
import time

import grpc

from . import fodc_wire as wire
from .waiting import TIMEOUT, until

_END = object()

# Beyond this the agent gives up and the test fails.
REGISTRATIONS_MAX = 20


@dataclasses.dataclass
class Series:
    """One recorded series: whole Unix seconds and values."""

    name: str
    labels: dict = dataclasses.field(default_factory=dict)
    help: str = ""
    type: int = 0
    samples: list = dataclasses.field(default_factory=list)


class Call:
    """One open stream, as the agent sees it."""

    def __init__(self, channel, method, reads, agent_id=None):
        self.method = method
        self.closing = False
        self.outgoing = queue.SimpleQueue()
        self.metadata = [("agent_id", agent_id)] if agent_id else None
        open_stream = channel.stream_stream(
            f"/{wire.SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reads.FromString if reads else bytes,
        )
        self.call = open_stream(iter(self.outgoing.get, _END), metadata=self.metadata)

    def send(self, message):
        self.outgoing.put(message)

    def half_close(self):
        self.closing = True
        self.outgoing.put(_END)


class Agent:
    """An agent of that version. `series` is its record; `heartbeat` and `reconnect` are the
    intervals of its flags, seconds."""

    def __init__(self, version, address, node=None, series=(), heartbeat=1.0, reconnect=0.5):
        self.version = version
        self.node = node or wire.Node()
        self.series = list(series)
        self.heartbeat = heartbeat
        self.reconnect = reconnect
        # The ids it was given, the refusals it got, and the ends of streams it did not want.
        self.ids = []
        self.refusals = []
        self.endings = []
        # The queries it read.
        self.queries = []
        # Messages of the proxy that this version does not understand, by field number.
        self.unknown_fields = set()
        # Messages on the registration's stream after the first response.
        self.unasked = []
        self.beats = threading.Event()
        self.beats.set()
        self.responses = threading.Event()
        self.responses.set()
        self.gave_up = False
        self._address = address
        self._cut = False
        self._closed = threading.Event()
        self._broken = threading.Event()
        self._calls = {}
        self._channel = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # The behaviour of the program.

    def _run(self):
        attempts = 0
        while not self._closed.is_set():
            registered = self._try()
            if self._closed.is_set():
                return
            attempts = 0 if registered else attempts + 1
            recovers = self.version.recovers
            done_for = recovers == "never" or (recovers == "once" and self.ids and attempts > 0)
            if done_for or len(self.ids) >= REGISTRATIONS_MAX:
                self.gave_up = True
                return
            # After the loss of a stream it comes back at once.
            if not registered:
                self._closed.wait(self.reconnect)

    def _try(self):
        """Runs one registration until it ends. Returns true if it was accepted."""
        self._broken.clear()
        self._cut = False
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", self.version.limit),
            ("grpc.max_send_message_length", -1 if self.version.limit == 4 << 20 else self.version.limit),
            ("grpc.enable_retries", 0),
            # It dials when told to, not after the backoff of the channel.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        self._channel = grpc.insecure_channel(self._address, options=options)
        self._calls = {}
        try:
            interval = self._open_all()
            if interval is None:
                return False
            while not self._closed.is_set() and not self._broken.wait(interval):
                if self.beats.is_set():
                    self._calls[wire.REGISTER].send(self.node.registration(self.version))
            return True
        finally:
            self._hang_up()

    def _open_all(self):
        """Opens every stream. Returns the interval of the heartbeats, or none if it was refused."""
        registration = Call(self._channel, wire.REGISTER, wire.messages.RegisterAgentResponse)
        self._calls[wire.REGISTER] = registration
        registration.send(self.node.registration(self.version))
        try:
            response = next(registration.call)
        except (grpc.RpcError, StopIteration) as error:
            self.refusals.append(str(error))
            return None
        self.unknown_fields |= wire.unknown_fields(response)
        if not response.success or not response.agent_id:
            with contextlib.suppress(grpc.RpcError):
                list(registration.call)
            self.refusals.append((response.message, registration.call.code(), registration.call.details()))
            return None
        self.ids.append(response.agent_id)
        self._follow(registration, self.unasked.append)
        for method in self.version.methods[1:]:
            self._open(method)
        return response.heartbeat_interval_seconds or self.heartbeat

    def _open(self, method):
        reads = wire.messages.StreamMetricsResponse if method == wire.METRICS else None
        call = Call(self._channel, method, reads, self.ids[-1])
        self._calls[method] = call
        on_message = (lambda query: self._respond(call, query)) if reads else (lambda _: None)
        self._follow(call, on_message)

    def _follow(self, call, on_message):
        threading.Thread(target=self._read, args=(call, self._channel, on_message), daemon=True).start()

    def _read(self, call, channel, on_message):
        with contextlib.suppress(grpc.RpcError):
            for message in call.call:
                on_message(message)
        if not call.closing and not self._closed.is_set() and channel is self._channel:
            self.endings.append((call.method, call.call.code(), call.call.details()))
            self._broken.set()

    def _respond(self, call, query):
        self.unknown_fields |= wire.unknown_fields(query)
        self.queries.append(query)
        while not self.responses.wait(0.1):
            if self._closed.is_set():
                return
        call.send(self.response(query))

    def response(self, query):
        """Returns the response to that query."""
        response = self.version.response(timestamp=wire.moment(time.time()))
        start, end = query.HasField("start_time"), query.HasField("end_time")
        for series in self.series:
            if not (start or end):
                metrics = [self._metric(series, value) for _, value in series.samples[-1:]]
            else:
                first = wire.seconds(query.start_time) if start else float("-inf")
                last = wire.seconds(query.end_time) if end else float("inf")
                metrics = [self._metric(series, v, t) for t, v in series.samples if first <= t <= last]
            response.metrics.extend(metrics)
        return response

    def _metric(self, series, value, time_of=None):
        metric = self.version.metric(
            name=series.name,
            labels=series.labels | self.node.stamp(self.version),
            value=value,
            description=series.help,
        )
        if time_of is not None:
            metric.timestamp.CopyFrom(wire.moment(time_of))
        if self.version.has_types:
            metric.type = series.type
        return metric

    def _hang_up(self):
        if not self._cut:
            for call in self._calls.values():
                call.half_close()
            # The half-closes must be sent before the connection is closed.
            time.sleep(0.02)
        self._channel.close()

    # The interface for tests.

    def registered(self, count=1, seconds=TIMEOUT):
        """Waits for so many registrations and returns the newest id."""
        until(lambda: len(self.ids) >= count, f"{count} registrations; {self.refusals}", seconds)
        return self.ids[-1]

    def call(self, method):
        """The stream of that method, as soon as it is open."""
        return until(lambda: self._calls.get(method), f"the stream {method}")

    def reopen_metrics(self):
        """Ends its metrics stream and opens another for the same registration."""
        self._calls[wire.METRICS].half_close()
        self._open(wire.METRICS)

    def drop(self):
        """Cancels every stream, and comes back at once."""
        self._cut = True
        for call in self._calls.values():
            call.closing = True
        self._broken.set()

    def close(self):
        """Leaves as the program does at SIGTERM. Can be repeated."""
        self._closed.set()
        self._broken.set()
        # A registration without a response has no deadline.
        if wire.REGISTER in self._calls and not self.ids:
            self._calls[wire.REGISTER].call.cancel()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the plain agent does not end"
