"""Fixtures: a browser, servers, and the console in a page. `cargo xtask console` builds the binary and sets
STEADFAST_BINARY."""

import os
import pathlib
import shutil

import pytest
from playwright.sync_api import sync_playwright

from console import Console
from servers import Stage


@pytest.fixture(scope="session")
def binary():
    path = pathlib.Path(os.environ.get("STEADFAST_BINARY", "target/debug/steadfast")).resolve()
    if not path.exists():
        pytest.fail(f"{path} does not exist: run `cargo xtask console`, or build steadfast-cli")
    return path


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("there is no Chromium: run .ci/run, or `apt-get install chromium`")
    with sync_playwright() as playwright:
        # As root there is no sandbox; the page is ours.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stage_with(binary, tmp_path):
    """Starts servers with arguments."""
    stages = []

    def start(**options):
        stages.append(Stage(binary, tmp_path / f"log{len(stages)}", **options))
        return stages[-1]

    yield start
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(stage_with):
    return stage_with()


@pytest.fixture
def open_console(browser):
    """Opens the console of a URL; at the end of the test nothing may be wrong with any page."""
    consoles = []

    def start(url, **options):
        consoles.append(Console(browser, url, **options))
        return consoles[-1]

    yield start
    for console in consoles:
        console.close()


@pytest.fixture
def console(open_console, stage):
    return open_console(stage.url)
