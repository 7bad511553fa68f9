#!/usr/bin/env python3
"""Asks one Prometheus from its own scrapes and another through our agent's remote read, and compares.

    real exporters ──> relay ──1 s──> Prometheus (reference)          ── query_range ──┐
    (node exporter,      │                                                             ├─ compare
     Prometheus itself)  └───1 s──> steadfast fodc agent <─remote read─ Prometheus ────┘

The relay reads each exporter once a second and gives everybody who asks in that second the same page;
it does so at the moment of the second that is farthest from those at which it is asked. So both
scrapers see the same pages, in the same order, at instants that differ by less than one interval: the
only difference there may be in the answers. During the run it also answers 500 for some
seconds, and leaves out a family of metrics for some others.

On a busy machine a scraper may come so late that it reads no page, or another's, in some second. The
relay knows who read what; what depends on such a second is not compared, and if that is more than a
quarter of everything the run says so and fails.

"Equal within one scrape interval" is meant exactly: at every step, the answer through the agent has to
lie between the least and the greatest of what the reference answers with the time moved by -1, 0 and
1 s, and with the range of the query changed by -1, 0 and 1 s; for a rate, give or take one interval's
share of its range, since where a series begins PromQL stretches what it knows by up to that much. A
series has to be there when all of these have it, and must not be when none has. Values that are not
derived over a range must be one of the reference's, bit for bit.

Run it with STEADFAST_BINARY naming the binary (default target/debug/steadfast). Needs `prometheus` and
`prometheus-node-exporter`; as root on Debian it installs them. Takes about two minutes.
"""

import argparse
import collections
import concurrent.futures
import http.server
import json
import math
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

PACKAGES = {"prometheus": "prometheus", "prometheus-node-exporter": "prometheus-node-exporter"}
LONGEST_RANGE = 30
HIDDEN_PREFIX = "node_netstat_Tcp"
# What each scraper says about its own scraping.
OWN = {"scrape_duration_seconds", "scrape_series_added", "scrape_body_size_bytes"}


def find_programs():
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "-qq", "update"], check=False)
        subprocess.run(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *missing], check=False,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        sys.exit(f"remote read was not checked: install {' and '.join(missing)}, or run this as root on Debian")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, timeout=10, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read(), answer.headers.get("Content-Type", "")


def farthest(moments):
    """The moment of a second that is farthest from all of these."""
    moments = sorted(moments) or [0.0]
    gaps = [(after - before, before) for before, after in zip(moments, [*moments[1:], moments[0] + 1])]
    gap, before = max(gaps)
    return (before + gap / 2) % 1


class Page:
    """What an exporter said at one moment, and who read it."""

    def __init__(self, status, body, content_type):
        self.status, self.body, self.content_type = status, body, content_type
        self.at, self.readers = time.time(), []


class Relay:
    """Reads an exporter once a second and serves what it read last."""

    def __init__(self, exporter, accept):
        self.exporter, self.accept = exporter, accept
        self.page = Page(500, b"", "text/plain")
        # Everything that was served; what happens to it is to happen to whole pages.
        self.pages = []
        self.failing = self.hiding = False
        # When it reads, and when it was asked, as parts of a second.
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
        """Seconds in which not each of the two scrapers read one page, and in which there was none."""
        seconds = set()
        for page, after in zip(self.pages, self.pages[1:]):
            if sorted(page.readers) != ["Prometheus", "steadfast"] or after.at - page.at > 1.5:
                seconds.update(range(int(page.at), int(after.at) + 1))
        return seconds

    def close(self):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


class Processes:
    """What was started, and ends with us."""

    def __init__(self, logs):
        self.logs, self.running = logs, []

    def start(self, name, *command):
        log = open(self.logs / f"{name}.log", "wb")
        self.running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return self.running[-1]

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what, url, patience=60):
    deadline = time.monotonic() + patience
    while True:
        try:
            return get(url, timeout=5)
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} does not answer on {url}: {error}") from error
            time.sleep(0.2)


def prometheus(processes, root, name, port, config):
    file = root / f"{name}.yml"
    file.write_text(config)
    processes.start(name, "prometheus", f"--config.file={file}", f"--storage.tsdb.path={root / name}",
                    f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn")
    return f"http://127.0.0.1:{port}"


def query(server, text, start, end):
    parameters = urllib.parse.urlencode({"query": text, "start": start, "end": end, "step": 1})
    try:
        answer, _ = get(f"{server}/api/v1/query_range?{parameters}", timeout=60)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{server} refuses {text}: {error.read().decode()}") from error
    result = json.loads(answer)["data"]["result"]
    return {frozenset(series["metric"].items()): {int(at): float(value) for at, value in series["values"]}
            for series in result}


class Asked:
    """One random query. `text(0)` is it; `text(1)` has a range one second longer."""

    def __init__(self, kind, text, window=0):
        self.kind, self.text, self.window = kind, text, window
        self.ranged = text(0) != text(1)


def random_query(dice, names, labels):
    """Draws a query about what the exporters have."""
    counters = [name for name in names if name.endswith("_total") or name.endswith("_count")]
    buckets = [name for name in names if name.endswith("_bucket")]
    gauges = [name for name in names if name not in counters and name not in buckets]
    window = dice.randint(10, LONGEST_RANGE - 1)
    kind = dice.choice(["selector", "matcher", "rate", "sum_rate", "sum", "quantile", "quantile", "over_time",
                        "absent", "increase"])
    if kind == "selector":
        return Asked(kind, lambda _, name=dice.choice(names): name)
    if kind == "matcher":
        name = dice.choice(names)
        label, values = dice.choice([pair for pair in labels[name].items() if pair[0] != "__name__"])
        value = dice.choice(sorted(values))
        operator = dice.choice(["=", "!=", "=~", "!~"])
        if "~" in operator:
            value = dice.choice([".+", "", f"{value[:1]}.*", f"{value}|nothing"])
        value = value.replace("\\", "\\\\").replace('"', '\\"')
        return Asked(kind, lambda _: f'{name}{{{label}{operator}"{value}"}}')
    if kind == "sum":
        name = dice.choice(gauges)
        label = dice.choice(sorted(labels[name].keys() - {"__name__"}))
        return Asked(kind, lambda _: f"sum by ({label}) ({name})")
    if kind == "over_time":
        name, function = dice.choice(gauges), dice.choice(["max", "min", "last"])
        return Asked(kind, lambda more: f"{function}_over_time({name}[{window + more}s])", window)
    if kind == "absent":
        name = dice.choice([*names, "nothing_has_this_name"])
        return Asked(kind, lambda _: f"absent({name})")
    if kind == "quantile":
        name, quantile = dice.choice(buckets), dice.choice([0.5, 0.9, 0.99])
        return Asked(kind, lambda more: f"histogram_quantile({quantile}, sum by (le) (rate({name}[{window + more}s])))", window)
    name = dice.choice(counters)
    if kind == "increase":
        return Asked(kind, lambda more: f"increase({name}[{window + more}s]) / {window + more}", window)
    if kind == "rate":
        return Asked(kind, lambda more: f"rate({name}[{window + more}s])", window)
    label = dice.choice(sorted(labels[name].keys() - {"__name__"}))
    return Asked(kind, lambda more: f"sum by ({label}) (rate({name}[{window + more}s]))", window)


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def within(value, candidates, asked):
    if any(same(value, candidate) for candidate in candidates):
        return True
    numbers = [candidate for candidate in candidates if not math.isnan(candidate)]
    if not asked.ranged or not numbers or math.isnan(value):
        return False
    # Equal infinities were seen above; between them everything is possible.
    share = 0 if asked.kind == "over_time" else 1 / asked.window
    slack = share * max((abs(number) for number in numbers if math.isfinite(number)), default=0)
    return min(numbers) - slack <= value <= max(numbers) + slack


def compare(asked, reference, through_agent, during, disturbed):
    """Points compared, points that can not be, and what is wrong."""
    start, end = during
    reach = 2 + (asked.window if asked.ranged else 0)
    clear = [at for at in range(start, end + 1) if disturbed.isdisjoint(range(at - reach, at + 3))]
    variants = [query(reference, asked.text(more), start - 1, end + 1) for more in ((-1, 0, 1) if asked.ranged else (0,))]
    found = query(through_agent, asked.text(0), start, end)
    points, skipped, wrong = 0, 0, []
    for series in set(found).union(*variants):
        own = dict(series)
        if own.get("__name__") in OWN:
            continue
        skipped += (end + 1 - start) - len(clear)
        for at in clear:
            values = [variant.get(series, {}).get(at + shift) for variant in variants for shift in (-1, 0, 1)]
            present = [value for value in values if value is not None]
            value = found.get(series, {}).get(at)
            points += value is not None
            if value is None:
                if len(present) == len(values):
                    wrong.append(f"{own} at {at}: nothing, but the reference always has {present}")
            elif not within(value, present, asked):
                wrong.append(f"{own} at {at}: {value}, but the reference has {present or 'nothing'}")
    return points, skipped, wrong


def load(server, stop):
    """Requests that move the counters and histograms of a Prometheus."""
    dice = random.Random(1)
    while not stop.wait(dice.uniform(0.02, 0.3)):
        try:
            get(f"{server}/api/v1/query?query={dice.choice(['up', 'count({job=~`.+`})', 'rate(up[1m])'])}")
        except OSError:
            pass


def check(root, binary, seed, count, seconds):
    processes = Processes(root)
    relays, stop = [], threading.Event()
    try:
        node, own, back, agent = (free_port() for _ in range(4))
        processes.start("node", "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}")
        relays = [Relay(f"http://127.0.0.1:{node}/metrics", "text/plain"),
                  Relay(f"http://127.0.0.1:{own}/metrics", "application/openmetrics-text;version=1.0.0")]
        targets = [f"localhost:{relay.port}" for relay in relays]
        reference = prometheus(processes, root, "reference", own, f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- {{job_name: steadfast, static_configs: [{{targets: {json.dumps(targets)}}}]}}
""")
        wait_for("the node exporter", relays[0].exporter)
        wait_for("Prometheus", f"{reference}/-/ready")
        for relay in relays:
            relay.start()
        processes.start("agent", binary, "fodc", "agent", "--data", str(root / "record"),
                        "--metrics-endpoint", ",".join(f"http://{target}/metrics" for target in targets),
                        "--poll-metrics-interval", "1s", "--prometheus-listen-addr", f"127.0.0.1:{agent}")
        wait_for("the agent", f"http://127.0.0.1:{agent}/readyz")
        through_agent = prometheus(processes, root, "through_agent", back, f"""
remote_read: [{{url: "http://127.0.0.1:{agent}/api/v1/read", read_recent: true}}]
""")
        wait_for("the second Prometheus", f"{through_agent}/-/ready")
        threading.Thread(target=load, args=(reference, stop), daemon=True).start()
        print(f"recording for {LONGEST_RANGE + seconds} s", flush=True)
        while not query(reference, "up == 1", time.time() - 2, time.time()):
            time.sleep(0.5)
        time.sleep(5)
        for relay in relays:
            relay.settle()
        time.sleep(3)
        began = int(time.time())
        time.sleep(LONGEST_RANGE + seconds / 4)
        relays[0].hiding = True
        time.sleep(8)
        relays[0].hiding = False
        time.sleep(seconds / 4)
        relays[0].failing = True
        time.sleep(5)
        relays[0].failing = False
        time.sleep(max(5, seconds / 2 - 13))
        # No range reaches back to before both had begun; and all that is asked for has been read.
        start, end = began + LONGEST_RANGE + 1, int(time.time()) - 3
        time.sleep(2)
        disturbed = relays[0].disturbed() | relays[1].disturbed()
        return ask_all(reference, through_agent, random.Random(seed), count, (start, end), disturbed)
    finally:
        stop.set()
        for relay in relays:
            if relay.threads[0].is_alive():
                relay.close()
        processes.stop()


def ask_all(reference, through_agent, dice, count, during, disturbed):
    labels, (start, end) = {}, during
    for series in query(reference, '{job="steadfast"}', start, end):
        own = dict(series)
        if own["__name__"] not in OWN:
            known = labels.setdefault(own["__name__"], {})
            for label, value in own.items():
                known.setdefault(label, set()).add(value)
    names = sorted(labels)
    asked = [random_query(dice, names, labels) for _ in range(count)]
    asked += [Asked("hidden", lambda _: f'{{__name__=~"{HIDDEN_PREFIX}.*"}}'), Asked("up", lambda _: "up"),
              Asked("everything", lambda _: f'count({{job="steadfast",__name__!~"{"|".join(sorted(OWN))}|steadfast_.*"}})')]
    failures = points = skipped = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda one: compare(one, reference, through_agent, during, disturbed), asked)
        for one, (compared, left_out, wrong) in zip(asked, results):
            points += compared
            skipped += left_out
            if wrong:
                failures += 1
                print(f"DIFFERENT {one.kind}: {one.text(0)}: {len(wrong)} of {compared} points; the first:", *wrong[:3],
                      sep="\n  ", flush=True)
    print(f"{len(asked)} queries over {end - start} s of {len(names)} metrics, {points} points compared, {skipped} "
          f"left out: {failures} queries differ by more than one scrape interval")
    if skipped > points / 3:
        print("the machine was too busy: in too many seconds a scraper came too late")
    return failures == 0 and skipped <= points / 3


def main():
    arguments = argparse.ArgumentParser(description="compare remote read with a Prometheus of its own")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--keep", action="store_true", help="keep logs and records")
    given = arguments.parse_args()
    binary = pathlib.Path(os.environ.get("STEADFAST_BINARY", "target/debug/steadfast")).resolve()
    if not binary.exists():
        sys.exit(f"{binary} does not exist: build steadfast-cli first")
    find_programs()
    root = pathlib.Path(tempfile.mkdtemp(prefix="steadfast-remote-read-"))
    good = False
    try:
        good = check(root, str(binary), given.seed, given.queries, given.seconds)
    finally:
        if given.keep or not good:
            print(f"logs are in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
