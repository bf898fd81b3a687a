"""Chance that can be repeated: one source of numbers for each purpose."""

from __future__ import annotations

import random


def chance(seed: int, purpose: str) -> random.Random:
    """Numbers that are the same in every run with the same seed, whatever other purposes draw meanwhile."""
    return random.Random(f"{seed}/{purpose}")  # noqa: S311 - nothing secret hangs on it
