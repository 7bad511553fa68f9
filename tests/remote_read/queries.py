"""Random queries for the metrics of exporters."""

import math

from servers import query

LONGEST_RANGE = 30
# The metrics of each scraper about its own scraping.
OWN = {"scrape_duration_seconds", "scrape_series_added", "scrape_body_size_bytes"}


class Asked:
    """One random query. `text(0)` is it; `text(1)` has a range one second longer."""

    def __init__(self, kind, text, window=0):
        self.kind, self.text, self.window = kind, text, window
        self.ranged = text(0) != text(1)


def random_query(dice, names, labels):
    """Draws a query for the metrics of the exporters."""
    counters = [name for name in names if name.endswith("_total") or name.endswith("_count")]
    buckets = [name for name in names if name.endswith("_bucket")]
    gauges = [name for name in names if name not in counters and name not in buckets]
    window = dice.randint(10, LONGEST_RANGE - 1)
    kind = dice.choice(["selector", "matcher", "rate", "sum_rate", "sum", "quantile", "quantile", "over_time",
                        "absent", "increase"])
    if kind == "selector":
        return Asked(kind, lambda _, name=dice.choice(names): name)
    if kind == "matcher":
        name = dice.choice(names)
        label, values = dice.choice([pair for pair in labels[name].items() if pair[0] != "__name__"])
        value = dice.choice(sorted(values))
        operator = dice.choice(["=", "!=", "=~", "!~"])
        if "~" in operator:
            value = dice.choice([".+", "", f"{value[:1]}.*", f"{value}|nothing"])
        value = value.replace("\\", "\\\\").replace('"', '\\"')
        return Asked(kind, lambda _: f'{name}{{{label}{operator}"{value}"}}')
    if kind == "sum":
        name = dice.choice(gauges)
        label = dice.choice(sorted(labels[name].keys() - {"__name__"}))
        # Two endpoints are not scraped at one instant, so that a sum over both is not defined exactly.
        by = ", ".join(sorted({"instance", label}))
        return Asked(kind, lambda _: f"sum by ({by}) ({name})")
    if kind == "over_time":
        name, function = dice.choice(gauges), dice.choice(["max", "min", "last"])
        return Asked(kind, lambda more: f"{function}_over_time({name}[{window + more}s])", window)
    if kind == "absent":
        name = dice.choice([*names, "nothing_has_this_name"])
        return Asked(kind, lambda _: f"absent({name})")
    if kind == "quantile":
        name, quantile = dice.choice(buckets), dice.choice([0.5, 0.9, 0.99])
        return Asked(kind, lambda more: f"histogram_quantile({quantile}, sum by (le) (rate({name}[{window + more}s])))", window)
    name = dice.choice(counters)
    if kind == "increase":
        return Asked(kind, lambda more: f"increase({name}[{window + more}s]) / {window + more}", window)
    if kind == "rate":
        return Asked(kind, lambda more: f"rate({name}[{window + more}s])", window)
    label = dice.choice(sorted(labels[name].keys() - {"__name__"}))
    return Asked(kind, lambda more: f"sum by ({label}) (rate({name}[{window + more}s]))", window)


def known(server, start, end):
    """The labels of each metric that the server has, with their values."""
    labels = {}
    for series in query(server, '{job="steadfast"}', start, end):
        own = dict(series)
        if own["__name__"] not in OWN:
            of = labels.setdefault(own["__name__"], {})
            for label, value in own.items():
                of.setdefault(label, set()).add(value)
    return labels


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))
