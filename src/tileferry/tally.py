"""The listener that counts: one run in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tileferry.events import BodySent, Call, CallEnded, Event, RetryPlanned, RowEnded, Summary
from tileferry.model import Status

THROTTLED = 429
"""The status by which the other side asks for a pause."""


class Tally:
    """Counts what happens in one run, beginning with `start`, which names the run."""

    def __init__(self, start: Summary) -> None:
        self._start = start
        self._statuses: Counter[Status] = Counter()
        self._failures: Counter[str] = Counter()
        self._calls: Counter[Call] = Counter()
        self._sent_bytes = 0
        self._retries = 0
        self._throttled = 0

    def __call__(self, event: Event) -> None:
        """Count one event."""
        match event:
            case RowEnded(outcome=outcome):
                self._statuses[outcome.status] += 1
                if outcome.status is Status.FAILED:
                    self._failures[outcome.reason] += 1
            case CallEnded(call=call, status=status):
                self._calls[call] += 1
                self._throttled += status == THROTTLED
            case BodySent(size=size):
                self._sent_bytes += size
            case RetryPlanned():
                self._retries += 1
            case _:
                pass

    def summary(self, *, seconds: float, interrupted: bool) -> Summary:
        """The figures as they stand after `seconds`."""
        return replace(
            self._start,
            seconds=seconds,
            statuses=dict(self._statuses),
            failures=dict(self._failures.most_common()),
            sent_bytes=self._sent_bytes,
            calls=dict(self._calls),
            retries=self._retries,
            throttled=self._throttled,
            interrupted=interrupted,
        )
