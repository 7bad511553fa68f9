"""Compares random regular expressions with a Prometheus of the system's packages.

The table of `steadfast-fodc-model` says which values an expression matches, and a unit test holds the agent to it. Here
Prometheus itself is asked, about series that have these values.
"""

import ast
import http.server
import json
import pathlib
import random
import threading
import time
import urllib.error
import urllib.parse

from servers import free_port, get, prometheus, wait_for

TABLE = pathlib.Path(__file__).parents[2] / "crates/fodc-model/tests/expressions/table.tsv"

# An expression that Go refuses, in the table.
REFUSED = "!"


def is_common(quoted):
    """Returns false for an expression on which versions of Prometheus differ.

    The one of Debian 12 refuses a quotation that has no end, and a named group without `P`.
    """
    ends = r"\\Q" not in quoted or r"\\E" in quoted.rpartition(r"\\Q")[2]
    return ends and "(?<" not in quoted


def escaped(value):
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Page(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


def matched(server, selector):
    """Returns the numbers of the matching values, or None for an expression that is refused."""
    try:
        answer, _ = get(f"{server}/api/v1/query?{urllib.parse.urlencode({'query': selector})}")
    except urllib.error.HTTPError as error:
        if error.code == 400:
            return None
        raise
    return {int(series["metric"]["number"]) for series in json.loads(answer)["data"]["result"]}


def verdict(server, quoted, expected, count):
    # The table lets a point match a line feed, as Prometheus does from version 3 on.
    text = quoted if expected == REFUSED else f'"(?s){quoted[1:]}'
    found = matched(server, f"value_of_table{{value=~{text}}}")
    return REFUSED if found is None else "".join("01"[number in found] for number in range(count))


def check(processes, root, seed, count):
    """Returns true if Prometheus agrees with `count` random lines of the table."""
    first, *lines = TABLE.read_text().splitlines()
    values = [ast.literal_eval(quoted) for quoted in first.split("\t")]
    samples = (f'value_of_table{{number="{number}",value="{escaped(value)}"}} 1\n' for number, value in enumerate(values))
    Page.body = "".join(samples).encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asked = prometheus(processes, root, "expressions", free_port(), f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- {{job_name: table, static_configs: [{{targets: ["127.0.0.1:{server.server_port}"]}}]}}
""")
        wait_for("Prometheus", f"{asked}/-/ready")
        deadline = time.monotonic() + 60
        while len(matched(asked, "value_of_table")) < len(values):
            if time.monotonic() > deadline:
                raise SystemExit("Prometheus does not scrape the values of the table")
            time.sleep(0.2)
        wrong = 0
        common = [line for line in lines if is_common(line.split("\t")[0])]
        chosen = random.Random(seed).sample(common, count)
        for quoted, expected in (line.split("\t") for line in chosen):
            found = verdict(asked, quoted, expected, len(values))
            if found != expected:
                wrong += 1
                print(f"DIFFERENT {quoted}: {found}, but {expected} in the table", flush=True)
        print(f"{count} regular expressions: Prometheus differs in {wrong}")
        return wrong == 0
    finally:
        server.shutdown()
        server.server_close()
