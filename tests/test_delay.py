"""When to ask for a result: learned from hits and misses, so that hardly a question is asked in vain."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileferry.delay import LONGEST, LOWER, MISSES, RAISE, SHORTEST_SHARE, ResultDelay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = 3.0
"""Seconds: the first delay of a run, as the settings have it."""

INTERVAL = 0.2
"""Seconds between two images at the documented rate."""


def uniform(chance: random.Random) -> float:
    """Processing as it is most of the time."""
    return chance.uniform(0.3, 2.0)


def lognormal(chance: random.Random) -> float:
    """Processing with a median of a second and a long, thin tail."""
    return chance.lognormvariate(0.0, 0.6)


def slow_tail(chance: random.Random) -> float:
    """Processing that takes up to eighteen seconds for one image in twenty."""
    return chance.uniform(2.0, 18.0) if chance.random() < 0.05 else chance.uniform(0.3, 2.0)


def very_slow_tail(chance: random.Random) -> float:
    """Processing that takes up to a minute for one image in twenty."""
    return chance.uniform(2.0, 60.0) if chance.random() < 0.05 else chance.uniform(0.3, 2.0)


def answers(
    delay: ResultDelay, images: int, processing: Callable[[random.Random], float], *, seed: int
) -> Iterator[bool]:
    """Let images be uploaded at an even pace and asked about once; yields whether each was there.

    Each question is planned when its upload ends, so it knows nothing of the answers that come until it is due.
    """
    chance = random.Random(seed)
    due: list[tuple[float, float, float]] = []
    for number in range(images):
        now = number * INTERVAL
        due.append((now + delay.seconds, delay.seconds, processing(chance)))
        due.sort(reverse=True)
        while due and due[-1][0] <= now:
            _, asked_after, took = due.pop()
            if took <= asked_after:
                delay.hit()
            else:
                delay.missed(asked_after)
            yield took <= asked_after


def share_in_vain(processing: Callable[[random.Random], float], *, first: float, skip: int, seed: int) -> float:
    """The share of first questions that came too early, after the first `skip`."""
    found = list(answers(ResultDelay(first), 20_000 + skip, processing, seed=seed))[skip:]
    return found.count(False) / len(found)


@pytest.mark.parametrize("processing", [uniform, lognormal, slow_tail])
@pytest.mark.parametrize("first", [0.3, FIRST, 30.0])
def test_hardly_a_question_is_asked_in_vain(processing: Callable[[random.Random], float], first: float) -> None:
    """Whatever the times and the first guess, fewer than 2 % of the questions come too early in the end."""
    for seed in range(3):
        assert share_in_vain(processing, first=first, skip=2000, seed=seed) < 0.02


def test_learning_costs_little() -> None:
    """With the usual times the first thousand images, learning included, cost at most 2.02 calls each."""
    for seed in range(5):
        found = list(answers(ResultDelay(FIRST), 1000, uniform, seed=seed))
        assert found.count(False) / len(found) <= 0.02


def test_tail_beyond_the_longest_delay_costs_its_share_only() -> None:
    """Of images that take up to a minute only those beyond the longest delay are asked about in vain."""
    beyond = 0.05 * (60.0 - LONGEST) / 58.0
    assert share_in_vain(very_slow_tail, first=FIRST, skip=2000, seed=1) == pytest.approx(beyond, abs=0.01)


@pytest.mark.parametrize(("processing", "most"), [(uniform, 3.0), (lognormal, 10.0)])
def test_results_are_not_asked_for_later_than_is_worth_while(
    processing: Callable[[random.Random], float], most: float
) -> None:
    """From a first guess far too long the delay comes down to a high quantile of the times."""
    delay = ResultDelay(30.0)
    for _ in answers(delay, 40_000, processing, seed=2):
        pass
    assert 1.5 < delay.seconds < most


def test_delay_follows_a_change() -> None:
    """When processing becomes five times slower, the delay has caught up within some hundred questions."""
    delay = ResultDelay(FIRST)
    for _ in answers(delay, 5000, uniform, seed=3):
        pass
    later = list(answers(delay, 5000, lambda chance: 5 * chance.uniform(0.3, 2.0), seed=4))
    assert later[500:].count(False) / len(later[500:]) < 0.03


def test_hits_and_misses_balance() -> None:
    """The delay stays where it is when the share of misses is the one that is aimed at."""
    drift = LOWER ** (1 - MISSES) * RAISE**MISSES
    assert drift == pytest.approx(1.0)


def test_late_news_of_early_questions_raise_it_once() -> None:
    """A burst of misses that were all asked at the same old delay raises it once, not once for each."""
    delay = ResultDelay(FIRST)
    for _ in range(50):
        delay.missed(FIRST)
    assert delay.seconds == pytest.approx(FIRST * RAISE)


@given(st.floats(0.01, 100.0), st.lists(st.booleans(), max_size=3000))
def test_delay_stays_within_its_bounds(first: float, found: list[bool]) -> None:
    """Whatever is seen, the delay is never below its share of the first one nor above the longest."""
    delay = ResultDelay(first)
    for there in found:
        if there:
            delay.hit()
        else:
            delay.missed(delay.seconds)
        assert first * SHORTEST_SHARE <= delay.seconds <= max(first, LONGEST)


@pytest.mark.parametrize("there", [True, False])
def test_bounds_are_reached(there: bool) -> None:
    """Only hits lead to the shortest delay, only misses to the longest: neither bound is out of reach."""
    delay = ResultDelay(FIRST)
    for _ in range(math.ceil(math.log(1 / SHORTEST_SHARE) / -math.log(LOWER)) + 1):
        if there:
            delay.hit()
        else:
            delay.missed(delay.seconds)
    assert delay.seconds == pytest.approx(FIRST * SHORTEST_SHARE if there else LONGEST)
