"""What happened, as frozen records for whoever listens.

The core emits these and knows no listener by name; a listener is any callable that takes an `Event`. It is
called on the event loop and must return quickly. All times are seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tileferry.model import Outcome, Status


class Call(enum.Enum):
    """The kinds of call that go over the wire."""

    TOKEN = "token"  # noqa: S105 - the name of a call
    BUCKETS = "buckets"
    RESERVE = "reserve"
    UPLOAD = "upload"
    RESULT = "result"

    @property
    def counts(self) -> bool:
        """Whether the call is one of the API's (the budget's), not the upload host's."""
        return self is not Call.UPLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run has opened its ledger and is about to take up rows."""

    run_id: int
    store_id: int
    api_url: str
    ledger: Path
    concurrency: int
    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBegan:
    """A worker has taken up a row."""

    line: int
    tile_id: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BodySent:
    """The body of one upload has left completely and was accepted; the image waits for its result."""

    line: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEnded:
    """A row has its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """One call over the wire has ended. `status` is `None` where no answer came; `problem` is empty if fine."""

    call: Call
    status: int | None
    seconds: float
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlanned:
    """A step of one row failed in passing and will be tried again after `wait` seconds."""

    line: int
    step: str
    problem: str
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CoolDownBegan:
    """`host` asked for a pause: no call goes there for `seconds`."""

    host: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageBegan:
    """Every call to `host` fails; the run pauses and probes."""

    host: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageProbed:
    """A probe of `host` failed too; the next one follows after `wait` seconds."""

    host: str
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEnded:
    """`host` answers again after `seconds`; the run goes on."""

    host: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainBegan:
    """No new row is begun; those in flight have `grace` seconds to end."""

    grace: float
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in figures. `failures` counts the failed rows by their short reason.

    Of a run over several stores, `stores` holds each one's own figures, and `run_id` and `store_id` are 0.
    """

    run_id: int
    store_id: int
    ledger: Path
    seconds: float = 0.0
    statuses: dict[Status, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    sent_bytes: int = 0
    calls: dict[Call, int] = field(default_factory=dict)
    retries: int = 0
    throttled: int = 0
    interrupted: bool = False
    stores: tuple[Summary, ...] = ()

    def count(self, status: Status) -> int:
        """How many rows ended with this status."""
        return self.statuses.get(status, 0)

    @property
    def rows(self) -> int:
        """How many rows have an outcome."""
        return sum(self.statuses.values())

    @property
    def api_calls(self) -> int:
        """Calls that count against the API budget."""
        return sum(number for call, number in self.calls.items() if call.counts)

    @property
    def missing(self) -> int:
        """How many rows are not in the store."""
        return self.count(Status.FAILED) + self.count(Status.PENDING)

    @property
    def complete(self) -> bool:
        """Whether every row is in the store."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCollected:
    """An image that an earlier run had sent is in the store."""

    tile_id: str
    image_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmEnded:
    """All images that waited for their results were asked about.

    `confirmed` were there; of the others `sent` were accepted, and `reserved` may never have been sent.
    """

    store_id: int
    ledger: Path
    seconds: float
    confirmed: int
    sent: int
    reserved: int

    @property
    def waiting(self) -> int:
        """How many are still not known to be in the store."""
        return self.sent + self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The run is over, for whatever reason; everything is recorded."""

    summary: Summary


Event = (
    RunStarted
    | RowBegan
    | BodySent
    | RowEnded
    | CallEnded
    | RetryPlanned
    | CoolDownBegan
    | OutageBegan
    | OutageProbed
    | OutageEnded
    | DrainBegan
    | ResultCollected
    | ConfirmEnded
    | RunEnded
)

Listener = Callable[[Event], None]


def broadcast(*listeners: Listener) -> Listener:
    """One listener that tells all of `listeners`, in order; with none it does nothing."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
