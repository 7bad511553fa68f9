#!/usr/bin/env python3
"""Compares a Prometheus that scrapes for itself with one that reads from our agent.

    real exporters ──> relay ──1 s──> Prometheus (reference)          ── query_range ──┐
    (node exporter,      │                                                             ├─ compare
     Prometheus itself)  └───1 s──> steadfast fodc agent <─remote read─ Prometheus ────┘

The relay reads each exporter once a second, at the moment that is farthest from the requests it gets,
and serves the same page to all requests of that second. So both scrapers see the same pages, in the
same order, at instants that differ by less than one interval: no other difference is allowed. During
the run the relay also responds with 500 for some seconds, and omits a family for some others.

On a busy machine a scraper may come so late that it reads no page, or another's, in some second. The
relay notes the readers of each page. Points that depend on such a second are not compared; if they are
more than a quarter of all points, the run says so and fails, unless that is allowed (--allow-busy).

"Equal within one scrape interval" is meant exactly: at every step, the answer through the agent has to
lie between the least and the greatest of what the reference answers with the time moved by -1, 0 and
1 s, and with the range of the query changed by -1, 0 and 1 s; for a rate, give or take one interval's
share of its range, since where a series begins PromQL stretches what it knows by up to that much. A
series has to be there when all of these have it, and must not be when none has. Values that are not
derived over a range must be one of the reference's, bit for bit.

Before that, regular expressions are compared with Prometheus (`expressions.py`).

Run it with STEADFAST_BINARY naming the binary (default target/debug/steadfast). Needs `prometheus` and
`prometheus-node-exporter`, which `.ci/run` installs. Takes about two minutes.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import expressions
from queries import LONGEST_RANGE, OWN, Asked, known, random_query, same
from relay import HIDDEN_PREFIX, Relay
from servers import Processes, find_programs, free_port, load, prometheus, query, wait_for

# The number of regular expressions that are compared first.
EXPRESSIONS = 1_000


def within(value, candidates, asked):
    if any(same(value, candidate) for candidate in candidates):
        return True
    numbers = [candidate for candidate in candidates if not math.isnan(candidate)]
    if not asked.ranged or not numbers or math.isnan(value):
        return False
    # Equal infinities were handled above; an infinity bounds nothing.
    share = 0 if asked.kind == "over_time" else 1 / asked.window
    slack = share * max((abs(number) for number in numbers if math.isfinite(number)), default=0)
    return min(numbers) - slack <= value <= max(numbers) + slack


def compare(asked, reference, through_agent, during, disturbed):
    """Returns the number of compared points, that of others, and the differences."""
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


def check(root, binary, given):
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
        print(f"recording for {LONGEST_RANGE + given.seconds} s", flush=True)
        while not query(reference, "up == 1", time.time() - 2, time.time()):
            time.sleep(0.5)
        time.sleep(5)
        for relay in relays:
            relay.settle()
        time.sleep(3)
        began = int(time.time())
        time.sleep(LONGEST_RANGE + given.seconds / 4)
        relays[0].hiding = True
        time.sleep(8)
        relays[0].hiding = False
        time.sleep(given.seconds / 4)
        relays[0].failing = True
        time.sleep(5)
        relays[0].failing = False
        time.sleep(max(5, given.seconds / 2 - 13))
        # No range begins before both had data, and the agent has stored all data that is queried.
        start, end = began + LONGEST_RANGE + 1, int(time.time()) - 3
        time.sleep(2)
        disturbed = relays[0].disturbed() | relays[1].disturbed()
        return ask_all(reference, through_agent, given, (start, end), disturbed)
    finally:
        stop.set()
        for relay in relays:
            if relay.threads[0].is_alive():
                relay.close()
        processes.stop()


def ask_all(reference, through_agent, given, during, disturbed):
    dice, (start, end) = random.Random(given.seed), during
    labels = known(reference, start, end)
    names = sorted(labels)
    asked = [random_query(dice, names, labels) for _ in range(given.queries)]
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
    busy = skipped > points / 3
    if busy:
        print("INCONCLUSIVE: the machine was too busy: in too many seconds a scraper came too late")
    return failures == 0 and (given.allow_busy or not busy)


def check_expressions(root, seed):
    processes = Processes(root)
    try:
        return expressions.check(processes, root, seed, EXPRESSIONS)
    finally:
        processes.stop()


def main():
    arguments = argparse.ArgumentParser(description="compare remote read with a Prometheus of its own")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--allow-busy", action="store_true", help="do not fail if the machine is too busy to compare")
    arguments.add_argument("--keep", action="store_true", help="keep logs and records")
    given = arguments.parse_args()
    binary = pathlib.Path(os.environ.get("STEADFAST_BINARY", "target/debug/steadfast")).resolve()
    if not binary.exists():
        sys.exit(f"{binary} does not exist: build steadfast-cli first")
    find_programs()
    root = pathlib.Path(tempfile.mkdtemp(prefix="steadfast-remote-read-"))
    good = False
    try:
        if not check_expressions(root, given.seed):
            sys.exit("expressions differ")
        good = check(root, str(binary), given)
    finally:
        if given.keep or not good:
            print(f"logs are in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
