"""Runs the tests of a module that mostly wait in parallel.

A test marked with `beside` has a stage as its only parameter. The first such test of a module starts all
selected ones, each on a thread. Each test then reports its own result, so the run lists them by name."""

import concurrent.futures
import functools
import threading

import pytest

from .fodc_stage import Stage

# Seconds from the start of the module to the end of its slowest test.
LIMIT = 58


def beside(scenario):
    """Runs the test beside the others of its module."""

    @functools.wraps(scenario)
    def test(side_by_side):
        side_by_side.result(scenario)

    test.scenario = scenario
    # pytest follows this to the parameters of the scenario.
    del test.__wrapped__
    return test


class SideBySide:
    def __init__(self, scenarios, binary, folder):
        self._futures = {}
        for scenario in scenarios:
            future = concurrent.futures.Future()
            self._futures[scenario] = future
            run = threading.Thread(
                target=_run, args=(scenario, future, binary, folder / scenario.__name__), daemon=True
            )
            run.start()

    def result(self, scenario):
        self._futures[scenario].result(LIMIT)

    def wait(self):
        concurrent.futures.wait(self._futures.values(), LIMIT)


def _run(scenario, future, binary, folder):
    stage = Stage(binary, folder)
    try:
        with stage:
            scenario(stage)
    except BaseException as error:
        error.add_note(stage.said())
        future.set_exception(error)
    else:
        future.set_result(None)


@pytest.fixture(scope="module")
def side_by_side(request, binary, tmp_path_factory):
    """The selected tests of this module that run in parallel."""
    functions = (item.function for item in request.session.items if item.module is request.module)
    scenarios = [one.scenario for one in functions if hasattr(one, "scenario")]
    running = SideBySide(
        scenarios, binary, tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])
    )
    yield running
    running.wait()
