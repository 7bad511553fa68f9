"""The processes, ports and Prometheus servers of the comparison."""

import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

PROGRAMS = ["prometheus", "prometheus-node-exporter"]


def find_programs():
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        sys.exit(f"remote read was not checked: install {' and '.join(missing)} (packages of Debian)")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, timeout=10, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read(), answer.headers.get("Content-Type", "")


class Processes:
    """Processes that end with the comparison."""

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


def load(server, stop):
    """Requests that move the counters and histograms of a Prometheus."""
    dice = random.Random(1)
    while not stop.wait(dice.uniform(0.02, 0.3)):
        try:
            get(f"{server}/api/v1/query?query={dice.choice(['up', 'count({job=~`.+`})', 'rate(up[1m])'])}")
        except OSError:
            pass
