"""The peers and programs of one test."""

import contextlib
import pathlib
import subprocess
import sys

from .fodc_agent import Agent
from .fodc_binary import OurAgent, OurProxy
from .fodc_exporter import Exporter
from .fodc_proxy import Proxy
from .relay import Relay
from .waiting import until


class Stage(contextlib.ExitStack):
    """Starts peers and our programs, and stops them at the end of the test. Behaviour that a Go program
    punishes fails the test."""

    def __init__(self, binary, folder):
        super().__init__()
        self._binary = binary
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._logs = 0
        self._proxies = []

    def __exit__(self, kind, error, trace):
        suppressed = super().__exit__(kind, error, trace)
        if error is None:
            faults = [fault for proxy in self._proxies for fault in proxy.faults]
            assert not faults, faults
        return suppressed

    def said(self):
        """The output of all processes."""
        logs = sorted(self._folder.glob("*.log"))
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    def _log(self, name):
        self._logs += 1
        return self._folder / f"{self._logs}-{name}.log"

    def folder(self, name):
        return self._folder / name

    def exporter(self, extra=""):
        exporter = Exporter(extra)
        self.callback(exporter.close)
        return exporter

    def proxy(self, version, dies=False, **settings):
        """A plain proxy; with `dies` the test expects its faults."""
        proxy = Proxy(version, **settings)
        self.callback(proxy.kill)
        if not dies:
            self._proxies.append(proxy)
        return proxy

    def agent(self, version, address, **settings):
        agent = Agent(version, address, **settings)
        self.callback(agent.close)
        return agent

    def our_proxy(self, **settings):
        proxy = OurProxy(self._binary, self._log("proxy"), **settings)
        self.callback(proxy.kill)
        return proxy

    def our_agent(self, proxy, *exporters, **settings):
        agent = OurAgent(self._binary, self._log("agent"), exporters, proxy, **settings)
        self.callback(agent.kill)
        return agent

    def relay(self, target):
        relay = Relay(target)
        self.callback(relay.close)
        return relay

    def proxy_process(self, version):
        """A plain proxy in a process of its own."""
        process = ProxyProcess(version, self._log("plain-proxy"))
        self.callback(process.kill)
        return process


class ProxyProcess:
    """A plain proxy in its own process, which can be frozen."""

    def __init__(self, version, log):
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peers.fodc_proxy", version.name],
                cwd=pathlib.Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.address = until(self._lines, "the address of the plain proxy")[0]

    def _lines(self):
        text = self._log.read_text()
        return text.split("\n")[:-1]

    def registered(self, count=1):
        until(lambda: f"registered {count}" in self._lines(), f"{count} registrations")

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait(10)
