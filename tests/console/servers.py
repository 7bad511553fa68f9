"""The binary under test: a Streamer with its gateway, in one process or in two."""

import socket
import subprocess
import time
import urllib.error
import urllib.request

# Seconds. Enough for two slow cores; a failing run still ends soon.
TIMEOUT = 40.0


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def until(happened, what, seconds=TIMEOUT):
    """Returns the first true value of `happened()`; fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = happened()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s: {what}")


class Program:
    """A program that can be killed and started again with the same arguments."""

    def __init__(self, binary, *arguments, ready):
        self._command = [str(binary), *arguments]
        self._ready = ready
        self._process = None
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(self._is_ready, f"{self._command} is ready")

    def _is_ready(self):
        assert self._process.poll() is None, f"{self._command} ended with status {self._process.returncode}"
        try:
            with urllib.request.urlopen(self._ready, timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self):
        """Kills it with SIGKILL: nothing is said to anybody."""
        self._process.kill()
        self._process.wait(TIMEOUT)


class Stage:
    """A Streamer and a gateway at addresses that stay the same."""

    def __init__(self, binary, data, *, apart=False, arguments=()):
        self.binary = binary
        self.streamer_address, operations, gateway = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.operations = operations
        self.url = f"http://{gateway}/"
        serve = ["streamer", "serve", "--data", str(data), "--listen", self.streamer_address, "--operations", operations]
        if apart:
            self.streamer = Program(binary, *serve, "--gateway", "off", *arguments, ready=f"http://{operations}/livez")
            beside = ["gateway", "--streamer", self.streamer_address, "--listen", gateway]
            beside += ["--streamer-operations", operations]
            self.gateway = Program(binary, *beside, *arguments, ready=self.url)
        else:
            self.streamer = self.gateway = Program(binary, *serve, "--gateway", gateway, *arguments, ready=self.url)

    def close(self):
        self.gateway.kill()
        self.streamer.kill()
