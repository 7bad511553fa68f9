"""Programs of the JavaScript client's tests, and server-sent events as `curl -N` reads them."""

import http.client
import json
import os
import pathlib
import queue
import shutil
import subprocess
import threading

import pytest

from .waiting import TIMEOUT

FOLDER = pathlib.Path(__file__).parents[3] / "clients/js"


class NodeProgram:
    """A program in clients/js/test that prints a line for each thing that it receives."""

    def __init__(self, name, url, *, ca=None):
        if not shutil.which("node") or not (FOLDER / "node_modules").exists():
            pytest.skip("NOT TESTED with Node: `cargo xtask test` installs what the JavaScript client is tested with")
        trusted = {"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}
        self._process = subprocess.Popen(
            ["node", f"test/{name}.js", url], cwd=FOLDER, env=os.environ | trusted, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True)
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def next(self, seconds=TIMEOUT):
        """The next line; nothing if none comes in time."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()


def connect(address, tls=None, seconds=TIMEOUT):
    """A connection for requests; `tls` is an ssl context."""
    host, port = address.split(":")
    if tls:
        return http.client.HTTPSConnection(host, port, timeout=seconds, context=tls)
    return http.client.HTTPConnection(host, port, timeout=seconds)


class Events:
    """The events of a path. Each read fails after `seconds` without a byte."""

    def __init__(self, address, path, tls=None, seconds=TIMEOUT):
        self._connection = connect(address, tls, seconds)
        self._connection.request("GET", path, headers={"Accept": "text/event-stream"})
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()

    def next(self):
        """The data of the next event."""
        while True:
            line = self._response.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))

    def close(self):
        self._connection.close()
