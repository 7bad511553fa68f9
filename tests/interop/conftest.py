"""Fixtures of all tests. STEADFAST_BINARY names the binary under test; `cargo xtask test` builds it and
sets the variable."""

import contextlib
import os
import pathlib

import pytest

from peers.binary import OurServer, OurSubscriber
from peers.fodc_stage import Stage
from peers.gateway import Gateway
from peers.relay import Relay
from peers.server import SYMBOLS, WORDS, Server


@pytest.fixture(scope="session")
def binary():
    path = pathlib.Path(os.environ.get("STEADFAST_BINARY", "target/debug/steadfast")).resolve()
    if not path.exists():
        pytest.fail(f"{path} does not exist: run `cargo xtask test`, or build steadfast-cli")
    return path


@pytest.fixture
def stage(binary, tmp_path):
    """The peers and programs of one FODC test."""
    with Stage(binary, tmp_path) as stage:
        yield stage
    # Shown if the test failed.
    print(stage.said())


@pytest.fixture
def plain_server(request):
    """A plain server; parametrized with "words" it takes the older spelling of operators."""
    words = getattr(request, "param", "symbols") == "words"
    server = Server(WORDS if words else SYMBOLS)
    yield server
    server.kill()


@pytest.fixture
def opened():
    """A stack of resources that the end of the test closes."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def gateway_to(opened):
    """Opens plain gateways."""
    return lambda address: opened.enter_context(contextlib.closing(Gateway(address)))


@pytest.fixture
def relay_to(opened):
    """Opens relays."""
    return lambda target: opened.enter_context(contextlib.closing(Relay(target)))


@pytest.fixture
def our_server(binary, tmp_path):
    server = OurServer(binary, tmp_path / "log")
    yield server
    server.kill()


@pytest.fixture
def subscriber_to(binary, opened):
    """Starts our subscribers."""

    def start(address, *args, **settings):
        subscriber = OurSubscriber(binary, address, *args, **settings)
        opened.callback(subscriber.kill)
        return subscriber

    return start
