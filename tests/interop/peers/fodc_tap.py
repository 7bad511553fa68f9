"""A relay that reads along what HTTP/2 frames a client sends, to see what no gRPC library tells."""

import collections
import contextlib
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING, GOAWAY = 6, 7
ACK = 1


class Tap:
    """Listens on a port of its own and relays to `target`, which may change."""

    def __init__(self, target):
        self.target = target
        self.connections = 0
        # Frames that dialled sides sent, by type; a PING that only acknowledges is not counted.
        self.sent = collections.Counter()
        # Frames that came back.
        self.came = collections.Counter()
        # While it is not set, nothing that a dialled side sends is taken from it.
        self.takes = threading.Event()
        self.takes.set()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                host, port = self.target.split(":")
                try:
                    far = socket.create_connection((host, int(port)), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._sockets += [near, far]
                for copy in ((near, far, self.sent, len(PREFACE)), (far, near, self.came, 0)):
                    threading.Thread(target=self._copy, args=copy, daemon=True).start()

    def _copy(self, source, sink, frames, skip):
        unread = b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if frames is self.sent:
                    self.takes.wait()
                sink.sendall(data)
                if skip:
                    dropped = min(skip, len(data))
                    skip -= dropped
                    data = data[dropped:]
                unread = _count(unread + data, frames)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Breaks every connection on both sides."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.takes.set()
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._sockets):
            one.close()


def _count(unread, frames):
    """Counts the frames that are there whole, and returns what is left."""
    while len(unread) >= 9:
        length = int.from_bytes(unread[:3], "big")
        kind, flags = struct.unpack("BB", unread[3:5])
        if len(unread) < 9 + length:
            break
        if not (kind == PING and flags & ACK):
            frames[kind] += 1
        unread = unread[9 + length :]
    return unread
