"""A TCP relay that can stop copying, or let go of one side, while both ends believe in the rest."""

import contextlib
import socket
import threading


class _Link:
    """One relayed connection: `near` dialled, `far` is the target."""

    def __init__(self, near, far):
        self.near = near
        self.far = far
        # What arrives is thrown away.
        self.swallows = False
        # The end of one side is not passed on to the other.
        self.torn = False

    def copy(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.swallows:
                    sink.sendall(data)
        if not (self.swallows or self.torn):
            _shut(source)
            _shut(sink)


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class Relay:
    """Listens on a port of its own and relays to `target`, a `host:port` that may change."""

    def __init__(self, target):
        self.target = target
        self.accepted = 0
        self._links = []
        self._lock = threading.Lock()
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
                with self._lock:
                    self.accepted += 1
                    self._links.append(link)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=link.copy, args=ends, daemon=True).start()

    def _all(self):
        with self._lock:
            return list(self._links)

    def swallow(self):
        """From now on the connections there are carry nothing, in either direction, and stay open.
        Later ones work."""
        for link in self._all():
            link.swallows = True

    def cut(self):
        """Breaks every connection on both sides."""
        for link in self._all():
            _shut(link.near)
            _shut(link.far)

    def cut_near(self):
        """Breaks the side of the one who dialled; the other side stays open and hears nothing."""
        for link in self._all():
            link.torn = True
            _shut(link.near)

    def close(self):
        _shut(self._listener)
        self._listener.close()
        for link in self._all():
            _shut(link.near)
            _shut(link.far)
            link.near.close()
            link.far.close()
