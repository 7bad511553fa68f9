"""A TCP relay that can stop copying, break one side, and count the HTTP/2 frames it copies."""

import collections
import contextlib
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING, GOAWAY = 6, 7
ACK = 1


class _Link:
    """One relayed connection: `near` dialled, `far` is the target."""

    def __init__(self, near, far):
        self.near = near
        self.far = far
        # Arriving bytes are discarded.
        self.swallows = False
        # The end of one side is not passed on to the other.
        self.torn = False

    def cut(self):
        _shut(self.near)
        _shut(self.far)


class Relay:
    """Listens on its own port and relays to `target`, a `host:port` that may change."""

    def __init__(self, target):
        self.target = target
        # Connections that reached the target.
        self.accepted = 0
        # Frames from the dialling side and from the target, by type, without PING acknowledgements.
        self.sent, self.came = collections.Counter(), collections.Counter()
        # While cleared, nothing is read from the dialling side.
        self.takes = threading.Event()
        self.takes.set()
        self._links = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                host, port = self.target.split(":")
                try:
                    far = socket.create_connection((host, int(port)), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                link = _Link(near, far)
                self.accepted += 1
                self._links.append(link)
                for copy in ((link, near, far, self.sent), (link, far, near, self.came)):
                    threading.Thread(target=self._copy, args=copy, daemon=True).start()

    def _copy(self, link, source, sink, frames):
        unread, preface = b"", len(PREFACE) if frames is self.sent else 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if frames is self.sent:
                    self.takes.wait()
                # Before they are passed on, so that whoever has received a frame finds it counted.
                skipped = min(preface, len(data))
                preface -= skipped
                unread = _count(unread + data[skipped:], frames)
                if not link.swallows:
                    sink.sendall(data)
            # Only this direction: what the other side sends at its end is still to arrive.
            if not (link.swallows or link.torn):
                sink.shutdown(socket.SHUT_WR)
            return
        if not (link.swallows or link.torn):
            link.cut()

    def swallow(self):
        """Makes the present connections carry nothing and stay open. Later ones work."""
        for link in list(self._links):
            link.swallows = True

    def cut(self):
        """Breaks every connection on both sides."""
        for link in list(self._links):
            link.cut()

    def cut_near(self):
        """Breaks the dialling side; the other side stays open and receives nothing."""
        for link in list(self._links):
            link.torn = True
            _shut(link.near)

    def close(self):
        self.takes.set()
        _shut(self._listener)
        self._listener.close()
        self.cut()
        for link in list(self._links):
            link.near.close()
            link.far.close()


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _count(unread, frames):
    """Counts the complete frames and returns the rest."""
    while len(unread) >= 9:
        length = int.from_bytes(unread[:3], "big")
        kind, flags = struct.unpack("BB", unread[3:5])
        if len(unread) < 9 + length:
            break
        if not (kind == PING and flags & ACK):
            frames[kind] += 1
        unread = unread[9 + length :]
    return unread
