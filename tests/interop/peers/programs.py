"""Programs of the system's packages: relays, and an etcd."""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request

import pytest

from .waiting import TIMEOUT, until


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def answers(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


class Program:
    """A program of a package of Debian. Tests of one that is not installed are skipped, which the
    summary says."""

    name, package = "", ""

    def __init__(self, directory):
        if not shutil.which(self.name):
            pytest.skip(f"NOT TESTED with {self.name}: install the package {self.package} (.ci/run does)")
        self.directory = directory
        directory.mkdir()
        self.address = free_address()
        self._log = open(directory / "log", "wb")
        self._process = None

    def start(self, *command):
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        until(lambda: answers(self.address) or self._process.poll() is not None, f"{self.name} answers")
        assert self._process.poll() is None, self.said()

    def said(self):
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def kill(self):
        if self._process:
            self._process.kill()
            self._process.wait(TIMEOUT)


class Relay(Program):
    """A master with workers."""

    def reload(self):
        self._process.send_signal(self.RELOAD)

    def kill(self):
        # The master ends its workers, which would outlive it if it was killed.
        if self._process:
            self._process.terminate()
            self._process.wait(TIMEOUT)


class Nginx(Relay):
    """Ends TLS, and speaks TLS with a client certificate to the server behind it; or relays HTTP/1."""

    name, package = "nginx", "nginx"
    RELOAD = signal.SIGHUP

    CONFIG = """
daemon off; worker_processes 1; user root; pid {directory}/pid; error_log stderr warn;
worker_shutdown_timeout 500ms;
events {{}}
http {{
  access_log off; client_max_body_size 0; client_body_timeout {idle}; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  map $http_upgrade $upgrade {{ default upgrade; "" close; }}
  server {{ {server} }}
}}
"""

    GRPC = """
    listen {address} ssl http2;
    ssl_certificate {front[cert]}; ssl_certificate_key {front[key]};
    location / {{
      grpc_pass grpcs://{upstream}; grpc_read_timeout {idle}; grpc_send_timeout {idle};
      grpc_ssl_certificate {back[cert]}; grpc_ssl_certificate_key {back[key]};
      grpc_ssl_trusted_certificate {ca}; grpc_ssl_verify on; grpc_ssl_name localhost;
    }}
"""

    # It buffers responses, as it does by default.
    HTTP = """
    listen {address};
    location / {{
      proxy_pass http://{upstream}; proxy_http_version {version}; proxy_read_timeout {idle}; {more}
      proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade;
    }}
"""

    def relay(self, upstream, front, back, ca, idle):
        self._serve(idle, self.GRPC.format(
            address=self.address, upstream=upstream, front=front, back=back, ca=ca, idle=idle))

    def relay_http(self, upstream, idle, version="1.1", more=""):
        self._serve(idle, self.HTTP.format(
            address=self.address, upstream=upstream, idle=idle, version=version, more=more))

    def _serve(self, idle, server):
        config = self.directory / "nginx.conf"
        config.write_text(self.CONFIG.format(directory=self.directory, idle=idle, server=server))
        self.start("nginx", "-c", config, "-p", self.directory, "-e", "stderr")


class Haproxy(Relay):
    """HTTP/2 over TLS on both sides, as Envoy has it, with a client certificate to the server behind it."""

    name, package = "haproxy", "haproxy"
    RELOAD = signal.SIGUSR2

    CONFIG = """
global
  hard-stop-after 500ms
defaults
  mode http
  timeout connect 5s
  timeout client {idle}
  timeout server {idle}
frontend front
  bind {address} ssl crt {front} alpn h2
  default_backend back
backend back
  server one {upstream} ssl crt {back} ca-file {ca} verify required verifyhost localhost alpn h2
"""

    def relay(self, upstream, front, back, ca, idle):
        config = self.directory / "haproxy.cfg"
        config.write_text(self.CONFIG.format(
            address=self.address, upstream=upstream, front=self._joined(front), back=self._joined(back), ca=ca,
            idle=idle))
        self.start("haproxy", "-W", "-f", config)

    def _joined(self, pair):
        """One file with the certificate and its key."""
        joined = self.directory / pair["cert"].name
        joined.write_bytes(pair["cert"].read_bytes() + pair["key"].read_bytes())
        return joined


class Etcd(Program):
    """Demands client certificates of everybody."""

    name, package = "etcd", "etcd-server"

    def serve(self, pair, ca):
        self._files = pair, ca
        url = f"https://{self.address}"
        self.start(
            "etcd", "--data-dir", self.directory / "data", "--listen-client-urls", url,
            "--advertise-client-urls", url, "--listen-peer-urls", f"http://{free_address()}",
            "--cert-file", pair["cert"], "--key-file", pair["key"], "--client-cert-auth", "--trusted-ca-file", ca)

    def restart(self):
        """Ends it at once, and starts it again with its data and address."""
        self.kill()
        self.serve(*self._files)

    def call(self, method, identity, **request):
        """Makes a call of the version 3 API as JSON."""
        _, ca = self._files
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(identity["cert"], identity["key"])
        url = f"https://{self.address}/v3/kv/{method}"

        def answered():
            try:
                with urllib.request.urlopen(url, json.dumps(request).encode(), TIMEOUT, context=context) as answer:
                    return json.load(answer)
            except OSError:
                # It has just been started.
                return None

        return until(answered, f"{method} is answered")
