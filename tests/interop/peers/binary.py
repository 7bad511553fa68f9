"""The binary under test, as server, publisher and subscriber."""

import json
import queue
import subprocess
import threading

from .waiting import TIMEOUT, until


class _Serving:
    """A server that says `ready ADDRESS` when it accepts connections."""

    def __init__(self, *command):
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        ready = self._process.stdout.readline().split()
        assert ready[:1] == ["ready"], f"{command} did not say that it is ready, but {ready}"
        self.address = ready[1]

    def terminate(self):
        """Asks for an orderly stop."""
        self._process.terminate()

    def wait(self, seconds=TIMEOUT):
        """The exit status."""
        return self._process.wait(seconds)

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()


class OurGateway(_Serving):
    """`steadfast gateway` in front of a server."""

    def __init__(self, binary, streamer, *flags):
        super().__init__(binary, "gateway", "--streamer", streamer, "--listen", "127.0.0.1:0", *flags)


class OurServer(_Serving):
    """`steadfast streamer serve` on a directory of its own."""

    def __init__(self, binary, data, *flags, listen="127.0.0.1:0"):
        super().__init__(binary, "streamer", "serve", "--data", data, "--listen", listen, *flags)
        self._binary = binary

    def publish(self, collection, *documents, database="default"):
        """Publishes the documents, in order, and waits until they are durable."""
        done = self.try_publish(collection, *documents, database=database)
        assert done.returncode == 0, done.stderr

    def try_publish(self, collection, *documents, database="default"):
        """Publishes the documents, in order, and returns the program that did, at its end."""
        lines = "".join(d if isinstance(d, str) else json.dumps(d) + "\n" for d in documents)
        command = [self._binary, "streamer", "publish", "-d", database, "-c", collection]
        return subprocess.run(
            [*command, "--addr", self.address],
            input=lines,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )


class OurPublisher:
    """`steadfast streamer publish`, which is given its documents one after another."""

    def __init__(self, binary, address, collection, *flags):
        self._process = subprocess.Popen(
            [binary, "streamer", "publish", "-d", "default", "-c", collection, "--addr", address, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self, document):
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()

    def finish(self):
        """Waits until all documents are durable."""
        _, said = self._process.communicate(timeout=TIMEOUT)
        assert self._process.returncode == 0, said

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)


class OurSubscriber:
    """`steadfast streamer subscribe --json` with short times, so that tests are quick."""

    def __init__(self, binary, address, collection, *filters, database="default", **settings):
        times = {"heartbeat": "200ms", "activity_timeout": "1s", "initial_backoff": "50ms", "max_backoff": "500ms"}
        flags = [
            word
            for name, text in (times | settings).items()
            for word in (f"--{name.replace('_', '-')}", str(text))
        ]
        self._process = subprocess.Popen(
            [
                *(binary, "streamer", "subscribe", "--json", "-d", database, "-c", collection),
                *("--addr", address),
                *flags,
                *filters,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._items = queue.SimpleQueue()
        self.notes = []
        for follow in (self._follow_items, self._follow_notes):
            threading.Thread(target=follow, daemon=True).start()

    def _follow_items(self):
        for line in self._process.stdout:
            self._items.put(json.loads(line))

    def _follow_notes(self):
        for line in self._process.stderr:
            self.notes.append(line.rstrip())

    def next(self, seconds=TIMEOUT):
        """The next item."""
        try:
            return self._items.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no item within {seconds} s; it said {self.notes}") from None

    def items_so_far(self):
        """Returns all items received so far, without waiting."""
        items = []
        while not self._items.empty():
            items.append(self._items.get())
        return items

    def noted(self, text, times=1):
        """Waits until it has printed the text this many times."""
        until(lambda: sum(text in note for note in self.notes) >= times, f"{text!r} {times} times")

    def ready(self):
        """Waits until the server has acknowledged the subscription. A fault before that is no
        outage, because there was no subscription yet."""
        self.noted("subscribed to")
        self.noted("connected")

    def wait(self, seconds=TIMEOUT):
        """The exit status."""
        return self._process.wait(seconds)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)
