"""The console in a page of Chromium, as a person uses it."""

import json
import re

from servers import TIMEOUT, until

VIEWS = ["watch", "cut", "connections", "log"]

# Counts what moves without a person's doing, and what the policy of the page forbids.
OBSERVERS = """
  globalThis.shifts = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      if (entry.hadRecentInput) continue;
      const nodes = entry.sources.map(({ node }) => node?.outerHTML?.slice(0, 120) ?? String(node?.nodeName));
      shifts.push({ value: entry.value, nodes });
    }
  }).observe({ type: "layout-shift", buffered: true });
  globalThis.violations = [];
  document.addEventListener("securitypolicyviolation", ({ blockedURI, violatedDirective }) => {
    violations.push(`${violatedDirective} ${blockedURI}`);
  });
"""


class Console:
    def __init__(self, browser, url, *, width=1280, height=900, scheme="light", token=None, script=""):
        self._context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self._context.add_init_script(OBSERVERS + script)
        self.page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT * 1000)
        self.faults = []
        self.requests = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.frames = []
        self.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: self.frames.append(frame)))
        self.page.goto(url)
        if token is not None:
            self.use_token(token)
        else:
            self.connected()

    def close(self):
        violations = self.page.evaluate("violations")
        shifts = self.page.evaluate("shifts")
        self._context.close()
        assert self.faults == [], self.faults
        assert violations == [], violations
        assert shifts == [], shifts

    def use_token(self, token):
        self.page.fill("#token", token)
        self.page.click("#token-form button")
        self.connected()

    def connected(self):
        self.page.wait_for_selector('#connection[data-state="connected"]')

    def show(self, view):
        self.page.click(f"#tab-{view}")

    def text(self, selector):
        return self.page.text_content(selector).strip()

    def says(self, selector, pattern):
        """Waits until an element's text matches, and returns the match."""
        return until(lambda: re.search(pattern, self.text(selector)), f"{selector} says {pattern!r}")

    def count(self, view, name):
        """A figure of a list of figures."""
        return self.text(f'#{view}-counts [data-name="{name}"]')

    def counts(self, view, **expected):
        """Waits for figures. An underscore in a name is a blank."""
        for name, value in expected.items():
            name = name.replace("_", " ")
            until(lambda: self.count(view, name) == str(value), f"{name} is {value} and not {self.count(view, name)}")

    # Publishing and watching.

    def watch(self, *conditions, snapshot=True, left=True, start=""):
        self.page.fill("#filters", "\n".join(conditions))
        self.page.set_checked("#snapshot", snapshot)
        self.page.set_checked("#left", left)
        self.page.fill("#from", start)
        self.page.click("#watch")

    def watching(self, *conditions, **options):
        """Watches, and waits until the gateway has acknowledged it: what follows is after that."""
        before = self.acknowledged()
        self.watch(*conditions, **options)
        until(lambda: self.acknowledged() > before, "the subscription is acknowledged")

    def whole(self):
        """Waits for the end of the snapshot. What has changed since its table was written comes as changes before
        that. Returns the number of these."""
        until(lambda: "snapshotEnd" in self.types(), "the snapshot is whole")
        return int(self.count("watch", "changes"))

    def acknowledged(self):
        self.page.wait_for_timeout(20)
        return sum('"subscribed"' in frame for frame in self.frames)

    def publish(self, document):
        self.page.fill("#document", json.dumps(document))
        self.page.click("#publish")
        self.says("#publish-state", f"^{re.escape(document['id'])} is durable")

    def lines(self):
        """The lines of the list, the newest first: type, op, id, position and data of each."""
        # The list is drawn with the next frame.
        script = """async () => {
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            return [...document.querySelectorAll("#watch-list .slot:not([hidden])")]
            .map((slot) => [...slot.children].map((cell) => cell.textContent));
        }"""
        return self.page.evaluate(script)

    def types(self):
        return [line[0] for line in self.lines()]

    # The run of numbers.

    def run(self, rate=20):
        self.show("cut")
        self.page.fill("#rate", str(rate))
        self.page.click("#run")
        self.says("#cut-state", "^running")
        self.received(5)

    def received(self, least):
        until(lambda: self.number("received") >= least, f"{least} numbers are received")

    def number(self, name):
        return int(self.count("cut", name).replace(" ", ""))

    def stop_run(self):
        """Stops to publish and waits for what is on the way."""
        self.page.click("#run")
        self.says("#cut-state", "^stopped; every number arrived once and in order")

    def arrivals(self):
        """The numbers in the order of their arrival, as the page shows them."""
        return [int(number) for number in self.text("#arrivals").split()]

    def outages(self):
        """The rows of the table of outages, the newest first."""
        rows = self.page.eval_on_selector_all("#outages tbody tr", "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))")
        return [] if rows == [["none yet"]] else rows
