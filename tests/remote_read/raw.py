"""The comparison without the relay: everybody scrapes the exporters by themselves.

    real exporters ─┬─1 s─> Prometheus (reference) ────────────────────────────── query_range ──┐
    (node exporter, ├─1 s─> Prometheus (control)  ─────────────────────────────── query_range ──┼─ compare
     Prometheus)    └─1 s─> steadfast fodc agent <─remote read─ Prometheus ────── query_range ──┘

So each sees its own values, taken at its own instants. The agent is compared with the two others, and as
a measure the control is compared with the reference and the agent in the same way. At t,

* what only grows lies between what the others have at t - 1 s and at t + 1 s;
* a rate, and a quantile of a histogram, lie within what the others answer with the time moved by -1, 0 and
  1 s and the range of the query changed by up to 2 s, give or take two intervals' share of the range;
* anything else may have been anything between two readings: it is near when it lies within what the
  others have from t - 2 s to t + 2 s, give or take as much as that spans. Here two Prometheus differ, too;
* a series is there when the others have it in all of these, and not when they have it in none. When they
  have it in some, it has just come or gone, and nothing can be said.

A query agrees when all of its points do. During the run the node exporter is killed and started again,
so its counters begin anew. Seconds in which somebody came late, or waited long for a page, are left out.
The run is good when nothing of the first two kinds differs, no series is there wrongly, and of the rest
hardly more differs through the agent than with the control.
"""

import collections
import concurrent.futures
import json
import math
import random
import threading
import time

from queries import LONGEST_RANGE, OWN, known, random_query, same
from servers import Processes, free_port, load, prometheus, query, wait_for

# A reading later than this after the one before, or that took longer than that, is not compared, seconds.
LATE, SLOW = 1.25, 0.3
GROWING = ("_total", "_count", "_bucket", "_sum")


class Servers:
    """Who is asked."""

    def __init__(self, processes, root, binary, node, own):
        targets = [f"localhost:{port}" for port in (node, own)]
        # When in its interval a Prometheus reads depends on its labels: so the two read at different instants.
        scrape = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, external_labels: {{who: {who}}}}}
scrape_configs:
- {{job_name: steadfast, static_configs: [{{targets: {targets}}}]}}
"""

        def scraping(who, port):
            config = scrape.format(who=who, targets=json.dumps(targets))
            return prometheus(processes, root, who, port, config)

        self.reference = scraping("reference", own)
        self.control = scraping("control", free_port())
        agent = free_port()
        processes.start("agent", binary, "fodc", "agent", "--data", str(root / "record"),
                        "--metrics-endpoint", ",".join(f"http://{target}/metrics" for target in targets),
                        "--poll-metrics-interval", "1s", "--prometheus-listen-addr", f"127.0.0.1:{agent}")
        self.agent = prometheus(processes, root, "through_agent", free_port(), f"""
remote_read: [{{url: "http://127.0.0.1:{agent}/api/v1/read", read_recent: true}}]
""")
        wait_for("the agent", f"http://127.0.0.1:{agent}/readyz")
        for server in self.all():
            wait_for("Prometheus", f"{server}/-/ready")

    def all(self):
        return self.reference, self.control, self.agent


def disturbed(servers, start, end):
    """Seconds in which one of them came late to an exporter, or waited long for it."""
    seconds = set()
    for server in servers:
        read = query(server, "timestamp(up)", start, end)
        took = query(server, "scrape_duration_seconds", start, end)
        for at in range(start, end + 1):
            ages = [at - values.get(at, 0) for values in read.values()]
            if len(ages) != 2 or max(ages) > LATE or max(values.get(at, 9) for values in took.values()) > SLOW:
                seconds.add(at)
    return seconds


def allowed(asked, grows, values):
    """Least and greatest of what is near to these values."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return math.nan, math.nan
    least, greatest = min(numbers), max(numbers)
    if asked.ranged and asked.kind != "over_time":
        slack = 2 / (asked.window - 1) * max(abs(least), abs(greatest))
    else:
        slack = 0 if grows else greatest - least
    return least - slack, greatest + slack


class Verdict:
    """What came of one query: what was compared, and what is wrong, by whether that can happen."""

    def __init__(self, seconds):
        self.seconds, self.points, self.never, self.may = seconds, 0, [], []


def compare(asked, others, one, during, clear):
    """Compares the answers of `one` with those of the others."""
    start, end = during
    changes = range(-2, 3) if asked.ranged else (0,)
    variants = [query(other, asked.text(more), start - 2, end + 2) for other in others for more in changes]
    found = query(one, asked.text(0), start, end)
    verdict = Verdict(len(clear))
    derived = asked.ranged and asked.kind != "over_time"
    for series in set(found).union(*variants):
        own = dict(series)
        if own.get("__name__") in OWN:
            continue
        grows = own.get("__name__", "").endswith(GROWING)
        reach = 1 if grows or derived else 2
        for at in clear:
            values = [variant.get(series, {}).get(at + shift)
                      for variant in variants for shift in range(-reach, reach + 1)]
            present = [value for value in values if value is not None]
            value = found.get(series, {}).get(at)
            verdict.points += value is not None
            if 0 < len(present) < len(values):
                continue
            wrong = None
            if (value is None) == bool(present):
                wrong = verdict.never
            elif present:
                least, greatest = allowed(asked, grows, present)
                if not (any(same(value, other) for other in present) or least <= value <= greatest):
                    wrong = verdict.never if grows or derived else verdict.may
            if wrong is not None:
                wrong.append(f"{own} at {at}: {value}, but the others have {present or 'nothing'}")
    return verdict


def check(root, binary, seed, count, seconds):
    processes, stop = Processes(root), threading.Event()
    try:
        node, own = free_port(), free_port()

        def exporter():
            return processes.start("node", "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}")

        running = exporter()
        servers = Servers(processes, root, binary, node, own)
        threading.Thread(target=load, args=(servers.reference, stop), daemon=True).start()
        print(f"recording for {LONGEST_RANGE + seconds} s", flush=True)
        while any(len(query(server, "up == 1", time.time() - 2, time.time())) < 2 for server in servers.all()):
            time.sleep(0.5)
        began = int(time.time()) + 5
        time.sleep(LONGEST_RANGE + seconds / 2)
        running.kill()
        time.sleep(4)
        running = exporter()
        time.sleep(max(5, seconds / 2))
        # No range reaches back to before all had begun; and all that is asked for has been read.
        start, end = began + LONGEST_RANGE + 2, int(time.time()) - 4
        time.sleep(2)
        return ask_all(servers, random.Random(seed), count, (start, end))
    finally:
        stop.set()
        processes.stop()


def ask_all(servers, dice, count, during):
    start, end = during
    labels = known(servers.reference, start, end)
    names = sorted(labels)
    asked = [random_query(dice, names, labels) for _ in range(count)]
    late = disturbed(servers.all(), start - LONGEST_RANGE - 2, end + 2)
    reference, control, agent = servers.all()

    def judge(one):
        reach = 3 + (one.window if one.ranged else 0)
        clear = [at for at in range(start, end + 1) if late.isdisjoint(range(at - reach, at + 3))]
        return {"agent": compare(one, (reference, control), agent, during, clear),
                "control": compare(one, (reference, agent), control, during, clear)}

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(zip(asked, pool.map(judge, asked)))
    agree, points, never = collections.Counter(), collections.Counter(), collections.Counter()
    for one, verdicts in results:
        for whose, verdict in verdicts.items():
            wrong = verdict.never + verdict.may
            agree[whose] += not wrong
            points[whose] += verdict.points
            never[whose] += len(verdict.never)
            if wrong:
                print(f"{whose} DIFFERENT {one.kind}: {one.text(0)}: {len(wrong)} of {verdict.points} points; the "
                      "first:", *wrong[:2], sep="\n  ", flush=True)
    compared = sum(verdicts["agent"].seconds > 0 for _, verdicts in results)
    print(f"{count} queries over {end - start} s of {len(names)} metrics, {compared} of them in seconds that can be "
          f"compared, {len(late)} seconds left out; through the agent {agree['agent']} agree ({points['agent']} "
          f"points), with the control {agree['control']} ({points['control']} points)")
    if compared < count / 2:
        print("the machine was too busy: in too many seconds somebody came too late")
    return not never["agent"] and agree["agent"] >= agree["control"] - count / 20 and compared >= count / 2
