"""The results of prometheus_client and of our parser in the same terms.

Its parsers accept or refuse a whole document; ours refuses lines. They agree on a document if

* prometheus_client refuses it exactly if ours refused a line or missed the end mark, and
* without those lines prometheus_client accepts it with the samples and families of ours.
"""

import itertools
import struct

from prometheus_client import parser as text
from prometheus_client.openmetrics import parser as openmetrics

from corpus import OPENMETRICS


class Refused(Exception):
    """prometheus_client refused the document."""


def disagreement(kind, document, ours):
    """Returns one line about the difference, or None."""
    refused = sorted({fault[0] for fault in ours["faults"]})
    lacking = bool(refused) or ours["eof_missing"]
    try:
        theirs = read(kind, document)
    except Refused as why:
        if not lacking:
            return f"refused there: {why}"
    else:
        if lacking:
            return f"taken there; here refused: {ours['faults']}, end missing: {ours['eof_missing']}"
    rest = without(document, refused, ours["eof_missing"])
    try:
        theirs = read(kind, rest)
    except Refused as why:
        return f"refused there without the lines refused here: {why}"
    return difference(theirs, munged(kind, ours))


def without(document, refused, eof_missing):
    lines = document.split(b"\n")
    kept = [line for number, line in enumerate(lines, start=1) if number not in refused]
    rest = b"\n".join(kept)
    if eof_missing:
        rest += b"# EOF\n" if rest.endswith(b"\n") or not rest else b"\n# EOF\n"
    return rest


def read(kind, document):
    """Returns (samples, families) of prometheus_client."""
    module = openmetrics if kind == OPENMETRICS else text
    samples, families = [], {}
    try:
        for metric in module.text_string_to_metric_families(document.decode()):
            if metric.type not in KINDS:
                raise Refused(f"type {metric.type!r}")
            known = (plain(metric.type), metric.documentation, metric.unit)
            if known != NOTHING:
                families[metric.name] = merged(families.get(metric.name, NOTHING), known)
            samples += [in_our_terms(sample) for sample in metric.samples]
    # Any exception means that the document was not accepted.
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    return samples, families


# The words that a TYPE line may have; prometheus_client accepts any.
KINDS = {
    "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown", "untyped",
}

NOTHING = ("unknown", "", "")


def plain(word):
    return "unknown" if word == "untyped" else word


def merged(one, other):
    """Merges the parts of a family whose lines are not adjacent."""
    return tuple(new if new != nothing else old for old, new, nothing in zip(one, other, NOTHING))


def in_our_terms(sample):
    # An empty label and none are the same series.
    labels = {name: value for name, value in (sample.labels or {}).items() if value != ""}
    timestamp = None if sample.timestamp is None else milliseconds(sample.timestamp)
    return [sample.name, labels, bits(sample.value), timestamp]


def milliseconds(timestamp):
    if hasattr(timestamp, "nsec"):
        return round(timestamp.sec * 1000 + timestamp.nsec / 1_000_000)
    return round(timestamp * 1000)


def bits(value):
    return struct.pack(">d", float(value)).hex()


def munged(kind, ours):
    """Converts our result to theirs: counters of the older format get the names of the newer one."""
    samples = ours["samples"]
    families = {}
    for name, (word, help_text, unit) in ours["families"].items():
        if kind != OPENMETRICS and word == "counter":
            if name.endswith("_total"):
                name = name.removesuffix("_total")
            else:
                samples = [[name + "_total" if s[0] == name else s[0], *s[1:]] for s in samples]
        known = (word or "unknown", help_text or "", unit or "")
        if known != NOTHING:
            families[name] = known
    return samples, families


def difference(theirs, ours):
    for there, here in itertools.zip_longest(theirs[0], ours[0]):
        if there != here:
            return f"sample there {there}, here {here}"
    for name in sorted({**theirs[1], **ours[1]}):
        there, here = theirs[1].get(name), ours[1].get(name)
        if there != here:
            return f"family {name} there {there}, here {here}"
    return None
