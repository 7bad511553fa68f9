#!/usr/bin/env python3
"""Writes a picture of each view of the console to docs/screenshots: light, dark, and on a phone.

The pictures have 128 colours, so that all of them together are small. `cargo xtask console --screenshots`.
"""

import io
import os
import pathlib
import shutil
import sys
import tempfile

from PIL import Image
from playwright.sync_api import sync_playwright

from console import VIEWS, Console
from servers import Stage, until

ROOT = pathlib.Path(__file__).parents[2]
TARGET = ROOT / "docs/screenshots"
# Bytes of all pictures together.
BUDGET = 1_000_000
KINDS = {
    "light": {"width": 1280, "height": 860},
    "dark": {"width": 1280, "height": 860, "scheme": "dark"},
    "phone": {"width": 360, "height": 740},
}


def act(console):
    """Does what a visitor would, so that every view has something to show."""
    names = ["jade lamp", "amber stool", "slate kettle", "cobalt bench", "crimson rug"]
    for number, name in enumerate(names):
        console.publish({"id": f"a{number}", "name": name, "price": 20 + 15 * number})
    console.watching("price < 100")
    before = console.whole()
    console.publish({"id": "a1", "name": "amber stool", "price": 140})
    console.publish({"id": "a0", "name": "jade lamp", "price": 25})
    console.counts("watch", changes=before + 1, left=1)
    console.page.click("#watch-list .slot:nth-child(2)")
    console.run()
    for cut in (1, 2):
        console.page.click("#cut")
        until(lambda: len(console.outages()) == cut and console.outages()[0][2] != "goes on", "the outage is over")
        console.received(console.number("received") + 20)


def picture(console, view, kind):
    console.show(view)
    if view in ("connections", "log"):
        # A chart needs some readings.
        console.page.wait_for_timeout(8000)
    # The page has no animation, but a cursor that blinks.
    shot = console.page.screenshot(caret="hide")
    image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path = TARGET / f"{view}-{kind}.png"
    image.save(path, optimize=True)
    return path.stat().st_size


def main():
    binary = pathlib.Path(os.environ.get("STEADFAST_BINARY", ROOT / "target/debug/steadfast")).resolve()
    TARGET.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as data:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for kind, options in KINDS.items():
            stage = Stage(binary, pathlib.Path(data) / kind)
            console = Console(browser, stage.url, **options)
            act(console)
            for view in VIEWS:
                sizes[f"{view}-{kind}"] = picture(console, view, kind)
            console.close()
            stage.close()
        browser.close()
    for name, size in sizes.items():
        print(f"{name:<20} {size:>8} bytes")
    print(f"{'all':<20} {sum(sizes.values()):>8} bytes")
    return int(sum(sizes.values()) > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
