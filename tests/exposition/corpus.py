"""The documents for both parsers.

Most are generated from seeds: whole pages as exporters write them, and pages with one oddity each, named
after it. A few are written by hand and lie in `documents/`.
"""

import pathlib
import random

PROMETHEUS = "prometheus"
OPENMETRICS = "openmetrics"

# Generated pages without an oddity, for each format.
PAGES = 60

# Pages for each oddity.
TIMES = 2


def documents():
    """(format, name) -> bytes."""
    found = {}
    for path in sorted((pathlib.Path(__file__).parent / "documents").iterdir()):
        kind = {".prom": PROMETHEUS, ".om": OPENMETRICS}[path.suffix]
        found[kind, path.stem] = path.read_bytes()
    for kind in (PROMETHEUS, OPENMETRICS):
        for number in range(PAGES):
            found[kind, f"page-{number}"] = Page(kind, f"page {number}").text().encode()
        for name, oddity in ODDITIES[kind].items():
            for number in range(TIMES):
                found[kind, f"{name}-{number}"] = odd_page(kind, name, number, oddity)
    return found


def odd_page(kind, name, number, oddity):
    page = Page(kind, f"{name} {number}")
    if callable(oddity):
        return oddity(page)
    oddity = oddity if isinstance(oddity, bytes) else oddity.encode()
    # Lines on their own family, between two others.
    blocks = [block.encode() for block in page.blocks]
    blocks.insert(page.random.randint(0, len(blocks)), oddity + b"\n")
    return b"".join(blocks) + page.end().encode()


class Page:
    """A page of a few families."""

    def __init__(self, kind, seed):
        self.openmetrics = kind == OPENMETRICS
        self.random = random.Random(f"{kind} {seed}")
        names = self.random.sample(NAMES, self.random.randint(1, 6))
        self.blocks = [self.family(name) for name in names]

    def text(self):
        return "".join(self.blocks) + self.end()

    def end(self):
        return "# EOF\n" if self.openmetrics else ""

    def family(self, name):
        kinds = ["counter", "gauge", "histogram", "summary", "unknown"]
        if self.openmetrics:
            kinds += ["info", "gaugehistogram"]
            # The family's name is a label's name there, which has no colon.
            kinds += ["stateset"] if ":" not in name else []
        kind = self.random.choice(kinds)
        lines = []
        family = name
        if kind == "counter" and not self.openmetrics:
            family = name + "_total"
        word = "untyped" if kind == "unknown" and not self.openmetrics else kind
        head = [f"# TYPE {family} {word}"]
        if self.random.random() < 0.8:
            head.append(f"# HELP {family} {self.help()}")
        if self.openmetrics and kind not in ("info", "stateset") and "_" in name and self.random.random() < 0.5:
            head.append(f"# UNIT {family} {name.rsplit('_', 1)[1]}")
        self.random.shuffle(head)
        lines += head
        for labels in self.label_sets():
            lines += getattr(self, kind)(name, labels)
        return "".join(line + "\n" for line in lines)

    def help(self):
        words = ["requests", "of \\\\ all", "sorts", "line\\nbreak", "{}", "#", "é", "=", "1"]
        return " ".join(self.random.sample(words, self.random.randint(1, 5)))

    def label_sets(self):
        names = self.random.sample(["code", "method", "path", "zone_1", "_x"], self.random.randint(0, 3))
        sets = []
        for number in range(self.random.randint(1, 4) if names else 1):
            labels = [f'{name}="{self.label_value()}{number if name == names[0] else ""}"' for name in names]
            sets.append(labels)
        return sets

    def label_value(self):
        values = ["x", "/a/{id}", "a, b", "= 1", 'say \\"hi\\"', "back\\\\slash", "line\\nbreak", "é", "# {", "} 2", " "]
        return self.random.choice(values)

    def series(self, name, labels, value, exemplar=False):
        line = name
        if labels:
            comma = "," if not self.openmetrics and self.random.random() < 0.1 else ""
            line += "{" + ",".join(labels) + comma + "}"
        line += f" {value}"
        if exemplar and self.openmetrics and self.random.random() < 0.3:
            line += f' # {{trace="{self.random.randint(0, 99)}"}} {self.number()}'
            if self.random.random() < 0.5:
                line += f" {self.random.randint(0, 10**9)}.{self.random.randint(0, 999)}"
        return line

    def number(self):
        shape = self.random.randint(0, 6)
        if shape == 0:
            return str(self.random.randint(0, 10**self.random.randint(1, 25)))
        if shape == 1:
            return repr(self.random.uniform(0, 1000))
        if shape == 2:
            return repr(self.random.uniform(0, 1) * 10.0 ** self.random.randint(-300, 300))
        if shape == 3:
            return f"{self.random.uniform(0, 1e9):.3e}"
        if shape == 4:
            return f"{self.random.uniform(0, 1e6):.{self.random.randint(0, 18)}f}"
        if shape == 5:
            return f"{self.random.randint(0, 9)}e+{self.random.randint(0, 30):02}"
        return str(self.random.randint(0, 100))

    def gauge(self, name, labels):
        value = self.random.choice([self.number(), "-1" + self.number(), "NaN", "+Inf", "-Inf"])
        line = self.series(name, labels, value)
        if self.random.random() < 0.3:
            seconds = self.random.randint(0, 2 * 10**9)
            line += f" {seconds}.{self.random.randint(0, 999):03}" if self.openmetrics else f" {seconds}000"
        return [line]

    def unknown(self, name, labels):
        return [self.series(name, labels, self.number())]

    def counter(self, name, labels):
        lines = [self.series(name + "_total", labels, self.number(), exemplar=True)]
        if self.openmetrics and self.random.random() < 0.3:
            lines.append(self.series(name + "_created", labels, "1520430000.123"))
        return lines

    def histogram(self, name, labels, sum_name="_sum", count_name="_count"):
        lines, count = [], 0
        for bound in ["0.1", "1.0", "10.0", "+Inf"]:
            count += self.random.randint(0, 9)
            lines.append(self.series(name + "_bucket", [*labels, f'le="{bound}"'], count, exemplar=True))
        lines.append(self.series(name + count_name, labels, count))
        lines.append(self.series(name + sum_name, labels, self.number()))
        return lines

    def gaugehistogram(self, name, labels):
        return self.histogram(name, labels, "_gsum", "_gcount")

    def summary(self, name, labels):
        lines = [self.series(name, [*labels, f'quantile="{q}"'], self.number()) for q in ("0.5", "0.99")]
        return [*lines, self.series(name + "_sum", labels, self.number()), self.series(name + "_count", labels, 3)]

    def info(self, name, labels):
        return [self.series(name + "_info", [*labels, 'version="1"'], 1)]

    def stateset(self, name, labels):
        return [self.series(name, [*labels, f'{name}="{state}"'], on) for state, on in (("a", 1), ("b", 0))]


NAMES = [
    "requests", "latency_seconds", "queue_bytes", "_hidden", "job:rate:sum", "a", "B2", "temperature_celsius",
    "process_cpu_seconds", "errors",
]

# Oddities in both formats: a text is a few lines, a function makes the whole document.
BOTH = {
    "empty-braces": "odd{} 1",
    "blank-in-braces": "odd{ } 1",
    "trailing-comma": 'odd{a="x",} 1',
    "leading-comma": 'odd{,a="x"} 1',
    "two-commas": 'odd{a="x",,b="y"} 1',
    "only-comma": "odd{,} 1",
    "no-comma": 'odd{a="x" b="y"} 1',
    "blank-before-braces": 'odd {a="x"} 1',
    "blank-behind-comma": 'odd{a="x", b="y"} 1',
    "blank-around-equals": 'odd{a = "x"} 1',
    "blanks-within-braces": 'odd{ a="x" } 1',
    "two-blanks": "odd  1",
    "two-blanks-before-timestamp": "odd 1  2",
    "tab": "odd\t1",
    "tab-before-timestamp": "odd 1\t2",
    "tab-behind-braces": 'odd{a="x"}\t1',
    "leading-blank": " odd 1",
    "trailing-blank": "odd 1 ",
    "trailing-blank-behind-timestamp": "odd 1 2 ",
    "no-blank-behind-braces": 'odd{a="x"}1',
    "empty-label-value": 'odd{a="",b="x"} 1',
    "no-quotes": "odd{a=x} 1",
    "single-quotes": "odd{a='x'} 1",
    "label-without-value": "odd{a} 1",
    "label-name-with-digit-first": 'odd{1a="x"} 1',
    "label-name-with-colon": 'odd{a:b="x"} 1',
    "label-name-with-dash": 'odd{a-b="x"} 1',
    "label-name-reserved": 'odd{__a="x"} 1',
    "label-twice": 'odd{a="x",a="y"} 1',
    "label-twice-equal": 'odd{a="x",a="x"} 1',
    "label-twice-empty": 'odd{a="",a="x"} 1',
    "label-of-the-name": 'odd{__name__="x"} 1',
    "only-label-of-the-name": '{__name__="odd"} 1',
    "unclosed-braces": 'odd{a="x" 1',
    "unclosed-quotes": 'odd{a="x} 1',
    "unclosed-quotes-by-escape": 'odd{a="x\\"} 1',
    "closed-twice": 'odd{a="x"}} 1',
    "opened-twice": 'odd{{a="x"} 1',
    "no-name": '{a="x"} 1',
    "nothing-but-braces": "{} 1",
    "name-with-digit-first": "1odd 1",
    "name-with-dash": "od-d 1",
    "name-with-dot": "od.d 1",
    "name-with-letter-of-no-ascii": "oéd 1",
    "name-with-colons": ":odd: 1",
    "quoted-name": '{"odd.name"} 1',
    "quoted-name-and-labels": '{"odd.name",a="x"} 1',
    "quoted-name-behind-labels": '{a="x","odd.name"} 1',
    "quoted-name-twice": '{"odd.name","odd.other"} 1',
    "quoted-name-and-name": 'odd{"odd.name"} 1',
    "quoted-name-empty": '{""} 1',
    "quoted-name-with-escapes": '{"odd\\"\\\\\\n"} 1',
    "quoted-label-name": 'odd{"a.b"="x"} 1',
    "quoted-label-name-legacy": 'odd{"a"="x"} 1',
    "quoted-label-name-twice": 'odd{"a"="x",a="y"} 1',
    "quoted-label-name-empty": 'odd{""="x"} 1',
    "quoted-name-with-type": '# TYPE "odd.name" gauge\n{"odd.name"} 1',
    "escape-unknown": 'odd{a="\\t\\x"} 1',
    "escape-of-backslash-and-n": 'odd{a="\\\\n"} 1',
    "text-behind-label-value": 'odd{a="x"y} 1',
    "no-value": "odd",
    "no-value-but-blank": "odd ",
    "no-value-behind-braces": 'odd{a="x"}',
    "value-word": "odd one",
    "value-hexadecimal": "odd 0x10",
    "value-hexadecimal-float": "odd 0x1p4",
    "value-underscore": "odd 1_000",
    "value-comma": "odd 1,5",
    "value-infinity": "odd infinity",
    "value-nan-lower-case": "odd nan",
    "value-nan-signed": "odd -NaN",
    "value-inf-lower-case": "odd -inf",
    "value-too-large": "odd 1e400",
    "value-too-small": "odd 1e-400",
    "value-plus": "odd +1",
    "value-no-digit-before-point": "odd .5",
    "value-no-digit-behind-point": "odd 5.",
    "value-no-digits": "odd .",
    "value-no-exponent": "odd 1e",
    "value-zeros": "odd 000001",
    "value-negative-zero": "odd -0",
    "value-other-digits": "odd \u0661",
    "value-long": "odd " + "9" * 400,
    "value-long-and-small": "odd 0." + "0" * 300 + "123456789012345678901234567890",
    "timestamp": "odd 1 1700000000",
    "timestamp-zero": "odd 1 0",
    "timestamp-negative": "odd 1 -5",
    "timestamp-fraction": "odd 1 1.5",
    "timestamp-negative-fraction": "odd 1 -1.5",
    "timestamp-exponent": "odd 1 1e3",
    "timestamp-nan": "odd 1 NaN",
    "timestamp-inf": "odd 1 +Inf",
    "timestamp-word": "odd 1 now",
    "timestamp-underscore": "odd 1 1_0",
    "timestamp-too-large": "odd 1 99999999999999999999",
    "timestamp-twice": "odd 1 2 3",
    "exemplar-on-unknown": 'odd 1 # {a="x"} 0.5',
    "exemplar-without-value": '# TYPE odd counter\nodd_total 1 # {a="x"}',
    "exemplar-without-labels": "# TYPE odd counter\nodd_total 1 # 0.5",
    "exemplar-unclosed": '# TYPE odd counter\nodd_total 1 # {a="x" 0.5',
    "exemplar-word": '# TYPE odd counter\nodd_total 1 # {a="x"} word',
    "exemplar-hash-only": "# TYPE odd counter\nodd_total 1 #",
    "exemplar-too-long": '# TYPE odd counter\nodd_total 1 # {a="' + "x" * 200 + '"} 0.5',
    "type-unknown-word": "# TYPE odd banana\nodd 1",
    "type-upper-case": "# TYPE odd Gauge\nodd 1",
    "type-missing": "# TYPE odd\nodd 1",
    "type-of-nothing": "# TYPE\nodd 1",
    "type-extra-word": "# TYPE odd gauge really\nodd 1",
    "type-twice": "# TYPE odd gauge\n# TYPE odd gauge\nodd 1",
    "type-contradicted": "# TYPE odd gauge\n# TYPE odd counter\nodd 1",
    "type-behind-samples": "odd 1\n# TYPE odd gauge",
    "type-between-samples": 'odd{a="x"} 1\n# TYPE odd gauge\nodd{a="y"} 2',
    "type-without-samples": "# TYPE odd gauge",
    "type-of-other-name": "# TYPE odd gauge\nother 1",
    "type-of-bad-name": "# TYPE od-d gauge\nodd 1",
    "type-info-like-name": "# TYPE odd gauge\nodd_info 1",
    "type-untyped": "# TYPE odd untyped\nodd 1",
    "type-unknown": "# TYPE odd unknown\nodd 1",
    "type-tabs": "#\tTYPE\todd\tgauge\nodd 1",
    "help-empty": "# HELP odd \nodd 1",
    "help-missing": "# HELP odd\nodd 1",
    "help-of-nothing": "# HELP\nodd 1",
    "help-blanks": "# HELP odd  two blanks  \nodd 1",
    "help-twice": "# HELP odd x\n# HELP odd x\nodd 1",
    "help-contradicted": "# HELP odd x\n# HELP odd y\nodd 1",
    "help-behind-samples": "odd 1\n# HELP odd x",
    "help-unknown-escape": "# HELP odd \\t\\\"\nodd 1",
    "help-unfinished-escape": "# HELP odd x\\\nodd 1",
    "help-quotes": '# HELP odd say "hi"\nodd 1',
    "help-of-bad-name": "# HELP od-d x\nodd 1",
    "help-quoted-name": '# HELP "odd.name" x\n{"odd.name"} 1',
    "comment": "# something\nodd 1",
    "comment-empty": "#\nodd 1",
    "comment-blank": "# \nodd 1",
    "comment-no-blank": "#HELP odd x\nodd 1",
    "comment-lower-case": "# help odd x\nodd 1",
    "comment-indented": "  # something\nodd 1",
    "unit": "# TYPE odd_bytes gauge\n# UNIT odd_bytes bytes\nodd_bytes 1",
    "unit-that-does-not-fit": "# TYPE odd gauge\n# UNIT odd bytes\nodd 1",
    "blank-line": "\nodd 1",
    "blank-line-of-blanks": " \t\nodd 1",
    "eof-in-the-middle": "# EOF\nodd 1",
    "same-series-twice": "# TYPE odd gauge\nodd 1\nodd 2",
    "families-interleaved": "# TYPE odd gauge\n# TYPE odder gauge\nodd 1\nodder 1",
    "summary-and-gauge-of-its-sum": "# TYPE odd summary\nodd_count 1\nodd_sum 1\n# TYPE odd_sums gauge\nodd_sums 1",
    "created": "# TYPE odd counter\nodd_total 1\nodd_created 1",
    "zero-byte-in-name": "o\0dd 1",
    "zero-byte-in-label-value": 'odd{a="x\0"} 1',
    "zero-byte-line": "\0",
    "invalid-utf8-in-label-value": b'odd{a="\xff"} 1',
    "invalid-utf8-in-name": b"od\xc3d 1",
    "invalid-utf8-in-help": b"# HELP odd \xe2\x28\xa1\nodd 1",
    "invalid-utf8-in-comment": b"# \xf0\x28\nodd 1",
    "carriage-return": "odd 1\r",
    "carriage-return-in-label-value": 'odd{a="x\ry"} 1',
    "carriage-returns-everywhere": lambda page: page.text().replace("\n", "\r\n").encode(),
    "no-last-line-feed": lambda page: page.text().rstrip("\n").encode(),
    "no-last-line-feed-behind-sample": lambda page: ("".join(page.blocks) + "odd 1").encode(),
    "nothing": lambda page: b"",
    "only-a-line-feed": lambda page: b"\n",
    "byte-order-mark": lambda page: b"\xef\xbb\xbfodd 1\n" + page.end().encode(),
    "html": lambda page: b"<html><body>not found</body></html>\n" + page.end().encode(),
    "json": lambda page: b'{"status": "error"}\n' + page.end().encode(),
    "cut-in-a-label": lambda page: page.text().encode() + b'odd{a="x',
    "cut-in-a-name": lambda page: page.text().encode() + b"od",
}

ONLY_OPENMETRICS = {
    "no-eof": lambda page: "".join(page.blocks).encode(),
    "eof-twice": lambda page: page.text().encode() + b"# EOF\n",
    "line-feed-behind-eof": lambda page: page.text().encode() + b"\n",
    "sample-behind-eof": lambda page: page.text().encode() + b"odd 1\n",
    "blank-behind-eof": lambda page: "".join(page.blocks).encode() + b"# EOF \n",
    "unit-twice": "# UNIT odd_bytes bytes\n# UNIT odd_bytes bytes\nodd_bytes 1",
    "unit-empty": "# UNIT odd \nodd 1",
    "unit-of-info": "# TYPE odd_bytes info\n# UNIT odd_bytes bytes\nodd_bytes_info 1",
    "counter-without-total": "# TYPE odd counter\nodd 1",
    "counter-negative": "# TYPE odd counter\nodd_total -1",
    "counter-nan": "# TYPE odd counter\nodd_total NaN",
    "info-of-two": "# TYPE odd info\nodd_info 2",
    "stateset-without-label": "# TYPE odd stateset\nodd 1",
    "stateset-of-two": '# TYPE odd stateset\nodd{odd="a"} 2',
    "summary-quantile-of-two": '# TYPE odd summary\nodd{quantile="2"} 1',
    "histogram-without-le": "# TYPE odd histogram\nodd_bucket 1",
    "histogram-without-infinity": '# TYPE odd histogram\nodd_bucket{le="1.0"} 1',
    "histogram-that-falls": '# TYPE odd histogram\nodd_bucket{le="1.0"} 2\nodd_bucket{le="+Inf"} 1',
    "native-histogram": "# TYPE odd histogram\nodd {count:1,sum:1,schema:0,zero_threshold:0,zero_count:0}",
    "timestamps-that-go-back": "odd 1 2\nodd 1 1",
    "metadata-behind-samples": "# TYPE odd gauge\nodd 1\n# HELP odd x",
    "metadata-of-a-family-that-was": "# TYPE odd gauge\nodd 1\n# TYPE odder gauge\nodder 1\n# HELP odd x",
    "names-that-clash": "# TYPE odd counter\nodd_total 1\n# TYPE odd_total gauge\nodd_total 1",
    "exemplar": '# TYPE odd counter\nodd_total 1 # {a="x"} 0.5 1.5',
    "exemplar-empty-labels": "# TYPE odd counter\nodd_total 1 # {} 0.5",
    "exemplar-behind-timestamp": '# TYPE odd counter\nodd_total 1 5 # {a="}"} 0.5',
    "exemplar-no-blank": '# TYPE odd counter\nodd_total 1 #{a="x"} 0.5',
    "exemplar-timestamp-nan": '# TYPE odd counter\nodd_total 1 # {a="x"} 0.5 NaN',
    "exemplar-extra": '# TYPE odd counter\nodd_total 1 # {a="x"} 0.5 1 2',
    "exemplar-hash-in-quotes": '# TYPE odd counter\nodd_total{b=" # {"} 1 # {a="# {}"} 0.5',
    "timestamp-nanoseconds": "odd 1 1700000000.123456789",
}

ODDITIES = {PROMETHEUS: BOTH, OPENMETRICS: {**BOTH, **ONLY_OPENMETRICS}}
