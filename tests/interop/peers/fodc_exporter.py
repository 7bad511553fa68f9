"""A /metrics page whose values are the times of the scrapes."""

import http.server
import sys
import threading
import time


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # The client may have given up.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Exporter:
    """Serves on a port of its own `read_at_seconds`, the time at which the page was read, beside the
    lines of `extra`, which may change. `readings` are those times."""

    def __init__(self, extra=""):
        self.extra = extra
        self.readings = []
        self.failing = False
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                now = time.time()
                page = f"# TYPE read_at_seconds gauge\nread_at_seconds {now:.6f}\n{exporter.extra}"
                page = page.encode(errors="surrogateescape")
                if exporter.failing:
                    self.send_error(503)
                    return
                exporter.readings.append(round(now, 6))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *args):
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
