"""A strict reader of the proxy's HTTP interface."""

import dataclasses
import json
import re
import urllib.error
import urllib.parse
import urllib.request

from .waiting import TIMEOUT

MISSING = "X-Steadfast-Missing"

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})?'
    r" (-?[0-9]+(?:\.[0-9]+)?|NaN|[+-]Inf)"
)
_PLAIN = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclasses.dataclass
class Response:
    status: int
    headers: object
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.text, parse_constant=_no_json)

    @property
    def missing(self):
        return self.headers.get(MISSING)


def _no_json(name):
    raise AssertionError(f"{name} is not JSON")


def fetch(address, path, /, method="GET", seconds=TIMEOUT, **parameters):
    """Sends a request and returns its response, whatever the status."""
    query = urllib.parse.urlencode(parameters)
    url = f"http://{address}{path}" + (f"?{query}" if query else "")
    request = urllib.request.Request(url, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as response:
            return Response(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Response(error.code, error.headers, error.read())


class Page:
    """A page in the text format: every sample, and the type of every family. Everything that a strict
    parser refuses fails the test: a family with two types or in two places, a sample outside of its family,
    a series twice, a line that is neither."""

    def __init__(self, text):
        self.types = {}
        # By name and labels.
        self.samples = {}
        assert text == "" or text.endswith("\n"), "the last line has no end"
        family, closed = None, set()
        for line in text.split("\n")[:-1]:
            if line.startswith("# "):
                _, keyword, name, *rest = line.split(" ", 3)
                if name != family:
                    assert name not in closed, f"{name} is in two places"
                    closed.add(family)
                    family = name
                if keyword == "TYPE":
                    assert name not in self.types, f"{name} has two types"
                    [self.types[name]] = rest
                continue
            name = self._take(line)
            parts = [name] + [name.removesuffix(end) for end in ("_bucket", "_sum", "_count")]
            assert family in parts, f"{name} stands with {family}"

    def _take(self, line):
        match = _SAMPLE.fullmatch(line)
        assert match, f"not a line: {line!r}"
        name, inside, value = match.groups()
        pairs = [(k, re.sub(r'\\["\\n]', lambda m: _PLAIN[m[0]], v)) for k, v in _LABEL.findall(inside or "")]
        labels = dict(pairs)
        assert len(labels) == len(pairs), f"a label twice: {line!r}"
        key = (name, frozenset(labels.items()))
        assert key not in self.samples, f"a series twice: {line!r}"
        self.samples[key] = float(value)
        return name

    def named(self, name):
        """The samples of that name: (labels, value), ordered by pod and labels."""
        found = [(dict(labels), value) for (n, labels), value in self.samples.items() if n == name]
        return sorted(found, key=lambda sample: sorted(sample[0].items()))

    def one(self, name):
        """The only sample of that name."""
        found = self.named(name)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def pods(self):
        return {dict(labels).get("pod_name") for _, labels in self.samples}
