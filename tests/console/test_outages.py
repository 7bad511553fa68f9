"""Cuts and kills: every number that was published arrives once and in order, judged from what the page received."""

import time

import pytest

from servers import until


def judge(console):
    """The numbers that the page received are those that it published, each once, in order."""
    arrivals = console.arrivals()
    assert arrivals == list(range(1, console.number("published") + 1))
    for name in ("on the way", "twice", "out of order", "gaps"):
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


# Arrivals, with the numbers that are durable, and what the page makes of them.
VERDICTS = [
    ([1, 2, 3], 3, {"received": 3, "missing": 0, "duplicates": 0, "disordered": 0}),
    ([1, 2, 2, 3], 3, {"received": 3, "missing": 0, "duplicates": 1, "disordered": 0}),
    ([1, 3, 2], 3, {"received": 3, "missing": 0, "duplicates": 0, "disordered": 1}),
    ([1, 3, 4], 4, {"received": 3, "missing": 1, "duplicates": 0, "disordered": 0}),
    ([2, 3, 3], 5, {"received": 2, "missing": 3, "duplicates": 1, "disordered": 0}),
    # A change may arrive before its publication is acknowledged.
    ([1, 2, 3], 1, {"received": 3, "missing": 0, "duplicates": 0, "disordered": 0}),
    ([], 2, {"received": 0, "missing": 2, "duplicates": 0, "disordered": 0}),
]


def test_page_finds_each_kind_of_fault(console):
    script = """async ([arrivals, published]) => {
        const { Numbers } = await import("./numbers.js");
        const numbers = new Numbers();
        numbers.published = published;
        arrivals.forEach((number) => numbers.arrived(number));
        const { received, missing, duplicates, disordered } = numbers;
        return { received, missing, duplicates, disordered };
    }"""
    for arrivals, published, verdict in VERDICTS:
        assert console.page.evaluate(script, [arrivals, published]) == verdict, arrivals
