"""Waiting with a timeout."""

import time

# Seconds. Enough for two slow cores; a failing run still ends soon.
TIMEOUT = 25.0


def until(happened, what, seconds=TIMEOUT):
    """Returns the first true value of `happened()`; fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = happened()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s: {what}")
