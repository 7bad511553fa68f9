"""`steadfast fodc` as processes."""

import pathlib
import subprocess
import threading

from . import fodc_http
from .waiting import TIMEOUT, until

# The longest orderly stop, whatever the peers do.
STOP = 5.0


class _Process:
    def __init__(self, command, log):
        self.log = pathlib.Path(log)
        self._ready = None
        with self.log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self._ready = self._process.stdout.readline()
        # A full pipe would block the program.
        while self._process.stdout.read(4096):
            pass

    def ready(self):
        """The words after `ready`."""
        line = until(lambda: self._ready, f"that it says ready\n{self.said()}").split()
        assert line[:1] == ["ready"], f"{line}\n{self.said()}"
        return line[1:]

    def said(self):
        return self.log.read_text(errors="replace")[-4000:]

    def runs(self):
        return self._process.poll() is None

    def terminate(self):
        self._process.terminate()

    def leaves(self, seconds=STOP):
        """Waits for the end after `terminate`, which must be in order."""
        # One second more, because the machine is busy with other tests.
        status = self._process.wait(seconds + 1)
        assert status == 0, f"it ended with {status}\n{self.said()}"

    def stop(self):
        self.terminate()
        self.leaves()

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)


class OurProxy(_Process):
    """`steadfast fodc proxy`; settings are its flags."""

    def __init__(self, binary, log, /, **settings):
        listen = {"grpc_listen_addr": "127.0.0.1:0", "http_listen_addr": "127.0.0.1:0"}
        super().__init__(
            [binary, "fodc", "proxy", *_flags({"heartbeat_interval": "1s"} | listen | settings)], log
        )
        self.address, self.http = self.ready()

    def get(self, path, /, **parameters):
        return fodc_http.fetch(self.http, path, **parameters)

    def page(self, path="/metrics", /, **parameters):
        """Returns the page at /metrics, parsed strictly; no agent may be missing."""
        response = self.get(path, **parameters)
        assert (response.status, response.missing) == (200, None), response
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return fodc_http.Page(response.text)

    def windows(self, **parameters):
        """Returns the series of /metrics-windows; no agent may be missing."""
        response = self.get("/metrics-windows", **parameters)
        assert (response.status, response.missing) == (200, None), response
        assert response.headers["Content-Type"] == "application/json"
        return response.json

    def health(self):
        response = self.get("/health")
        assert response.status == 200, response
        return response.json

    def agents(self):
        """The agents by id."""
        return {agent["agent_id"]: agent for agent in self.get("/agents").json}

    def knows(self, *agents, streams=1):
        """Waits until each plain agent is online and its metrics stream is there."""

        def there():
            known = self.agents()
            for agent in agents:
                found = known.get(agent.ids[-1]) if agent.ids else None
                if not found or found["status"] != "online":
                    return False
                if len(found["streams"]) < len(agent.version.methods) - 1:
                    return False
            return True

        until(there, f"{len(agents)} agents online with their streams; {self.said()}")


class OurAgent(_Process):
    """`steadfast fodc agent` on the exporters; settings are its flags; `None` omits one."""

    def __init__(self, binary, log, exporters, proxy, /, **settings):
        usual = {
            "poll_metrics_ports": ",".join(str(exporter.port) for exporter in exporters),
            "container_names": ",".join(f"c{index}" for index in range(len(exporters))),
            "in_memory": True,
            "proxy_addr": proxy,
            "node_role": "ROLE_DATA",
            "pod_name": "db-0",
            "node_labels": "type=hot",
            "prometheus_listen_addr": "127.0.0.1:0",
            "heartbeat_interval": "1s",
            "reconnect_interval": "1s",
            # Long enough that a busy machine misses no scrape.
            "scrape_timeout": "10s",
        }
        super().__init__([binary, "fodc", "agent", *_flags(usual | settings)], log)
        [self.http] = self.ready()


def _flags(settings):
    words = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None:
            words += [flag, str(value)]
    return words
