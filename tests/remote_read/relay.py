"""A relay that gives two scrapers the same pages of one exporter, and notes when it could not."""

import collections
import http.server
import threading
import time

from servers import get

# The family that may be left out.
HIDDEN_PREFIX = "node_netstat_Tcp"


def farthest(moments):
    """The moment of a second that is farthest from all of these."""
    moments = sorted(moments) or [0.0]
    gaps = [(after - before, before) for before, after in zip(moments, [*moments[1:], moments[0] + 1])]
    gap, before = max(gaps)
    return (before + gap / 2) % 1


class Page:
    """A page of an exporter, and its readers."""

    def __init__(self, status, body, content_type):
        self.status, self.body, self.content_type = status, body, content_type
        self.at, self.readers = time.time(), []


class Relay:
    """Reads an exporter once a second and serves the last page."""

    def __init__(self, exporter, accept):
        self.exporter, self.accept = exporter, accept
        self.page = Page(500, b"", "text/plain")
        # All pages that were served.
        self.pages = []
        self.failing = self.hiding = False
        # The moments of its own reading and of the requests, as fractions of a second.
        self.moment, self.asked = 0.5, collections.deque(maxlen=20)
        self.stop = threading.Event()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                relay.asked.append(time.time() % 1)
                page = relay.page
                page.readers.append(self.headers.get("User-Agent", "").split("/")[0])
                self.send_response(page.status)
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.threads = [threading.Thread(target=self.server.serve_forever, daemon=True),
                        threading.Thread(target=self.read, daemon=True)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def read(self):
        while not self.stop.wait(1 - (time.time() - self.moment) % 1):
            try:
                body, content_type = get(self.exporter, accept=self.accept)
            except OSError:
                continue
            if self.hiding:
                lines = body.split(b"\n")
                body = b"\n".join(line for line in lines if HIDDEN_PREFIX.encode() not in line)
            self.page = Page(500 if self.failing else 200, body, content_type)
            self.pages.append(self.page)

    def settle(self):
        self.moment = farthest(list(self.asked))

    def disturbed(self):
        """Returns the seconds without a page, and those in which a scraper did not read exactly one."""
        seconds = set()
        for page, after in zip(self.pages, self.pages[1:]):
            if sorted(page.readers) != ["Prometheus", "steadfast"] or after.at - page.at > 1.5:
                seconds.update(range(int(page.at), int(after.at) + 1))
        return seconds

    def close(self):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()
