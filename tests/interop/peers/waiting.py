"""Waiting with a bound."""

import time

# Long enough for two slow cores, short enough that a failing run is not tedious.
PATIENCE = 25.0


def until(happened, what, seconds=PATIENCE):
    """Returns the first true value of `happened()`; fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = happened()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s: {what}")
