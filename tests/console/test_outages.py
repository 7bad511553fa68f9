"""Cuts and kills: every number that was published arrives once and in order, judged from what the page received."""

import time

import pytest

from servers import until


def judge(console):
    """The numbers that the page received are those that it published, each once, in order."""
    arrivals = console.arrivals()
    assert arrivals == list(range(1, console.number("published") + 1))
    for name in ("on the way", "missing", "twice", "out of order", "gaps"):
        assert console.number(name) == 0, name
    return arrivals


def milliseconds(text):
    number, unit = text.split(" ", 1)
    return float(number) * {"ms": 1, "s": 1000}[unit]


def test_cuts_lose_nothing(console):
    console.run()
    for cut in range(1, 4):
        console.page.click("#cut")
        until(lambda: len(console.outages()) == cut and "goes on" not in console.outages()[0], f"outage {cut} is over")
        console.received(console.number("published"))
    console.stop_run()
    assert len(judge(console)) > 10
    assert console.number("cuts") == 3
    for number, began, lasted, cause in console.outages():
        assert int(number) in (1, 2, 3) and ":" in began and "lost" in cause
        # The first attempt comes after the initial backoff.
        assert 0 < milliseconds(lasted) < 20_000, lasted


@pytest.mark.parametrize("apart", [False, True], ids=["one_process", "two_processes"])
def test_killed_server_loses_nothing(stage_with, open_console, apart):
    stage = stage_with(apart=apart)
    console = open_console(stage.url)
    console.run()
    for _ in range(2):
        stage.streamer.kill()
        time.sleep(0.5)
        stage.streamer.start()
        console.received(console.number("received") + 20)
    console.stop_run()
    judge(console)


def test_killed_gateway_loses_nothing(stage_with, open_console):
    stage = stage_with(apart=True)
    console = open_console(stage.url)
    console.run()
    stage.gateway.kill()
    until(lambda: console.outages() and console.outages()[0][2] == "goes on", "the page sees the outage")
    time.sleep(1)
    stage.gateway.start()
    console.received(console.number("received") + 20)
    console.stop_run()
    judge(console)
    assert milliseconds(console.outages()[0][2]) >= 1000


def test_outage_is_told_in_the_list_of_what_arrives(console):
    console.watching(snapshot=False)
    console.publish({"id": "a", "n": 1})
    console.counts("watch", changes=1)
    console.page.evaluate("async () => (await import('./connection.js')).connection().cut()")
    console.counts("watch", outages=1)
    console.connected()
    console.publish({"id": "a", "n": 2})
    console.counts("watch", changes=2, gaps=0, resyncs=0)
    assert console.types() == ["change", "connected", "outage", "change"]


WHOLE = "stopped; every number arrived once and in order"

# Arrivals, the numbers that are durable, gaps, and what the page makes of them.
VERDICTS = [
    ([1, 2, 3], 3, 0, {"received": 3}, WHOLE, "good"),
    ([1, 2, 2, 3], 3, 0, {"received": 3, "duplicates": 1}, "stopped; 1 twice", "bad"),
    ([1, 3, 2], 3, 0, {"received": 3, "disordered": 1}, "stopped; 1 out of order", "bad"),
    # A higher number proves the loss of one below it.
    ([1, 3, 4], 4, 0, {"received": 3, "missing": 1}, "stopped; 1 missing", "bad"),
    ([2, 3, 3], 5, 0, {"received": 2, "missing": 1, "duplicates": 1, "underWay": 2}, "stopped; 1 missing, 1 twice, 2 on the way", "bad"),
    ([2, 5, 3], 5, 0, {"received": 3, "missing": 2, "disordered": 1}, "stopped; 2 missing, 1 out of order", "bad"),
    # A change may arrive before its publication is acknowledged.
    ([1, 2, 3], 1, 0, {"received": 3}, WHOLE, "good"),
    ([], 2, 0, {"underWay": 2}, "stopped; 2 on the way", ""),
    ([], 2, 1, {"underWay": 2}, "stopped; 1 gap, 2 on the way", "bad"),
    ([1, 2], 2, 2, {"received": 2}, "stopped; 2 gaps", "bad"),
    ([], 0, 0, {}, "stopped before the first number", ""),
]


def test_page_finds_each_kind_of_fault(console):
    script = """async ([arrivals, published, gaps]) => {
        const { Numbers } = await import("./numbers.js");
        const numbers = new Numbers();
        numbers.published = published;
        arrivals.forEach((number) => numbers.arrived(number));
        const { received, missing, underWay, duplicates, disordered } = numbers;
        return [{ received, missing, underWay, duplicates, disordered }, ...numbers.verdict(gaps)];
    }"""
    none = dict.fromkeys(["received", "missing", "underWay", "duplicates", "disordered"], 0)
    for arrivals, published, gaps, figures, text, kind in VERDICTS:
        found = console.page.evaluate(script, [arrivals, published, gaps])
        assert found == [none | figures, text, kind], (arrivals, published, gaps)


def test_hole_does_not_make_later_numbers_slow(console):
    script = """async () => {
        const { Numbers } = await import("./numbers.js");
        const numbers = new Numbers();
        // Only the first number is missing.
        for (let n = 2; n <= 40_000; n += 1) numbers.arrived(n);
        const began = performance.now();
        for (let n = 40_001; n <= 42_000; n += 1) numbers.arrived(n);
        return performance.now() - began;
    }"""
    # A search through all numbers would need several seconds.
    assert console.page.evaluate(script) < 1000


# Requests of a method wait until a function is called.
HELD = """
  const send = globalThis.fetch;
  const held = new Promise((resolve) => (globalThis.release = resolve));
  globalThis.fetch = async (target, init) => {
    if ((init?.method ?? "GET") === "METHOD") await held;
    return send(target, init);
  };
"""


def test_run_that_stops_before_its_first_number_proves_nothing(stage, open_console):
    console = open_console(stage.url, script=HELD.replace("METHOD", "GET"))
    console.show("cut")
    console.page.click("#run")
    console.says("#cut-state", "^starting")
    console.page.click("#run")
    console.says("#cut-state", "^stopping")
    console.page.evaluate("release()")
    console.says("#cut-state", "^stopped before the first number")
    assert console.page.get_attribute("#cut-state", "data-kind") == ""


def test_reason_of_an_ended_run_stays(stage, open_console):
    console = open_console(stage.url, script=HELD.replace("METHOD", "POST"))
    console.show("cut")
    console.page.click("#run")
    # A publication is under way.
    console.says("#cut-state", "^running")
    console.use_token("another")
    reason = "^ended: the page connects with another token"
    console.says("#cut-state", reason)
    console.page.evaluate("release()")
    console.page.wait_for_timeout(1000)
    console.says("#cut-state", reason)
    assert console.text("#run") == "Start"
