"""When to ask for a result: as early as is worth while, as late as it takes to ask once.

Processing takes an unknown time, and a question that comes too early costs a call. An image that waits costs
nothing, so the first question aims at a high quantile of the times seen. Only "there" or "not yet" is ever seen,
never when it became so; therefore the delay is not computed but tracked: a miss raises it by much, a hit lowers
it by little, and it settles where about `MISSES` of the first questions come too early.
"""

from __future__ import annotations

import math

MISSES = 0.004
"""The share of first questions that may come too early; each costs one call more."""

RAISE = 1.5
"""By what factor a miss raises the delay."""

LOWER = math.exp(-math.log(RAISE) * MISSES / (1 - MISSES))
"""By what factor a hit lowers it, so that hits and misses balance at `MISSES`."""

LONGEST = 20.0
"""Seconds; a few slow images must not make all others wait for longer."""

SHORTEST_SHARE = 0.05
"""The share of the first delay below which it never falls."""


class ResultDelay:
    """How long after an accepted upload to ask for its result, in seconds; learned by all images of a run."""

    def __init__(self, first: float) -> None:
        self.seconds = first
        self._least = first * SHORTEST_SHARE
        self._most = max(first, LONGEST)

    def hit(self) -> None:
        """A first question found the image."""
        self.seconds = max(self._least, self.seconds * LOWER)

    def missed(self, asked_after: float) -> None:
        """A first question came too early, though it was asked so many seconds after the upload."""
        if asked_after >= self.seconds:
            # Questions that were due before the last raise say nothing about the delay as it is now.
            self.seconds = min(self._most, self.seconds * RAISE)
