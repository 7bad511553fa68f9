"""A plain FODC proxy that behaves as the Go programs do, faults included where agents must live with
them: no headers before the first message, no response to a heartbeat, nothing said by itself, UNKNOWN
at a refusal, and a seed dies of a registration without an address.

Run as a program it is a proxy in a process of its own, which can be frozen:
`python -m peers.fodc_proxy VERSION` prints its address."""

import queue
import sys
import threading
import time
import uuid
from concurrent import futures

import grpc

from . import fodc_wire as wire
from .waiting import TIMEOUT, until

_END = object()


class _Stream:
    """One open call, as the proxy sees it."""

    def __init__(self, method, metadata, peer):
        self.method = method
        self.agent_id = metadata.get("agent_id")
        # The connection it is on.
        self.peer = peer
        self.open = True
        self.received = []
        self._incoming = queue.SimpleQueue()
        self.outgoing = queue.SimpleQueue()

    def came(self, message):
        self.received.append(message)
        self._incoming.put(message)

    def send(self, message):
        self.outgoing.put(message)

    def end(self, code=None, details=""):
        """Ends the call: in order, or with a status."""
        self.outgoing.put(_END if code is None else (code, details))

    def gone(self):
        self.open = False
        self.outgoing.put(_END)

    def next(self, seconds=TIMEOUT):
        """The next message of the agent."""
        try:
            return self._incoming.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no message on {self.method} within {seconds} s") from None


class Registration:
    """One accepted registration."""

    def __init__(self, agent_id, request, stream):
        self.agent_id = agent_id
        self.request = request
        self.stream = stream
        # The later messages, each with its time.
        self.heartbeats = []


class Proxy(grpc.GenericRpcHandler):
    """A proxy of that version on a port of its own. Behaviour of an agent that a Go program of
    that version punishes or dies of is noted in `faults`, which the end of a test checks."""

    def __init__(self, version, port=0, heartbeat=1, max_agents=1000):
        self.version = version
        self.heartbeat = heartbeat
        self.max_agents = max_agents
        self.lock = threading.Lock()
        self.registrations = []
        self.streams = []
        # The method of every call, refused ones included.
        self.calls = []
        self.faults = []
        # Methods of the version that respond with UNIMPLEMENTED.
        self.lacks = set()
        # The text with which all registrations are refused.
        self.refusal = None
        # A registration is accepted without a response.
        self.mute = False
        # A method whose streams end right after they were accepted.
        self.ends = None
        # A registration is answered with success, and without an id.
        self.nameless = False
        # While cleared, no response of an agent is read.
        self.takes = threading.Event()
        self.takes.set()
        # All registration requests, accepted or not.
        self.asked = 0
        options = [
            ("grpc.max_receive_message_length", version.limit),
            ("grpc.so_reuseport", 0),
            # The policy of the Go server, with no strike too many.
            ("grpc.http2.min_ping_interval_without_data_ms", 300_000),
            ("grpc.http2.max_ping_strikes", 1),
        ]
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=64), [self], options=options)
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._grpc.start()

    # The service.

    def service(self, details):
        service, _, method = details.method.removeprefix("/").partition("/")
        with self.lock:
            self.calls.append(details.method)
        known = service == wire.SERVICE and method in self.version.methods
        if not known or method in self.lacks:
            return None
        reads = {wire.REGISTER: self.version.registration, wire.METRICS: self.version.response}.get(method)
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self._serve(method, requests, context),
            request_deserializer=reads.FromString if reads else bytes,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _serve(self, method, requests, context):
        stream = _Stream(method, dict(context.invocation_metadata()), context.peer())
        if method != wire.REGISTER and stream.agent_id is None:
            text = "agent ID not found in metadata or peer address"
            context.abort(grpc.StatusCode.UNAUTHENTICATED, text)
        with self.lock:
            self.streams.append(stream)
        if not context.add_callback(stream.gone):
            stream.gone()
        threading.Thread(target=self._read, args=(stream, requests), daemon=True).start()
        if self.ends == method != wire.REGISTER:
            stream.end()
        for message in iter(stream.outgoing.get, _END):
            if isinstance(message, tuple):
                context.abort(*message)
            yield message
        stream.gone()

    def _read(self, stream, requests):
        registration = None
        try:
            for message in requests:
                if stream.method != wire.REGISTER:
                    stream.came(message)
                    self.takes.wait()
                elif registration is None:
                    registration = self._register(stream, message)
                else:
                    registration.heartbeats.append((time.monotonic(), message))
        except grpc.RpcError:
            pass
        stream.end()

    def _register(self, stream, request):
        with self.lock:
            self.asked += 1
            refusal = self.refusal or self._refusal(request)
            registration = Registration(str(uuid.uuid4()), request, stream)
            if not self.mute and not refusal and not self.nameless:
                self.registrations.append(registration)
        if self.mute:
            return registration
        if refusal:
            stream.send(wire.messages.RegisterAgentResponse(success=False, message=refusal))
            stream.end(grpc.StatusCode.UNKNOWN, refusal)
            return registration
        stream.send(
            wire.messages.RegisterAgentResponse(
                success=True,
                message="Agent registered successfully",
                heartbeat_interval_seconds=int(self.heartbeat),
                agent_id="" if self.nameless else registration.agent_id,
            )
        )
        if self.ends == wire.REGISTER:
            stream.end()
        return registration

    def _refusal(self, request):
        """The checks of the version, in its order."""
        if len(self.registrations) >= self.max_agents:
            return f"maximum number of agents ({self.max_agents}) reached"
        if self.version.has_pods:
            if not request.node_role:
                return "node role cannot be empty"
            return "" if request.pod_name else "pod name cannot be empty"
        if not request.HasField("primary_address"):
            self.faults.append("the proxy died: a registration without primary_address")
            return "dead"
        if not request.primary_address.ip:
            return "primary address IP cannot be empty"
        if request.primary_address.port <= 0:
            return "primary address port must be greater than 0"
        return "" if request.node_role else "node role cannot be empty"

    # The interface for tests.

    def registered(self, count=1, seconds=TIMEOUT):
        """Waits for so many accepted registrations and returns the newest."""
        until(lambda: len(self.registrations) >= count, f"{count} registrations", seconds)
        return self.registrations[-1]

    def heartbeats(self, count, seconds=TIMEOUT):
        """Waits until the newest registration has sent so many heartbeats and returns their messages."""
        registration = self.registered()
        until(lambda: len(registration.heartbeats) >= count, f"{count} heartbeats", seconds)
        return [message for _, message in registration.heartbeats]

    def open_streams(self, method):
        with self.lock:
            return [stream for stream in self.streams if stream.open and stream.method == method]

    def metrics_stream(self, seconds=TIMEOUT):
        """The stream for queries to the newest registration; a newer stream replaces an older one."""

        def newest():
            mine = self.registrations[-1].agent_id if self.registrations else None
            return [one for one in self.open_streams(wire.METRICS) if one.agent_id == mine]

        return until(newest, "a metrics stream of the registered agent", seconds)[-1]

    def query(self, start=None, end=None, seconds=TIMEOUT):
        """One query and its response, which is the next message on that stream."""
        stream = self.metrics_stream(seconds)
        stream.send(wire.query(start, end))
        return stream.next(seconds)

    def connections(self):
        """The connections on which calls came that were accepted."""
        with self.lock:
            return {stream.peer for stream in self.streams}

    def kill(self):
        """Drops every connection and stops listening. Can be repeated."""
        self.takes.set()
        self._grpc.stop(None).wait(10)
        with self.lock:
            streams = list(self.streams)
        for stream in streams:
            stream.gone()


if __name__ == "__main__":
    [_version] = [version for version in wire.VERSIONS if version.name == sys.argv[1]]
    _proxy = Proxy(_version)
    print(_proxy.address, flush=True)
    _told = 0
    while not _proxy.faults:
        time.sleep(0.05)
        while _told < len(_proxy.registrations):
            _told += 1
            print(f"registered {_told}", flush=True)
    sys.exit(_proxy.faults[0])
