"""The end of a run as a person reads it: the figures, where everything is, and what to do next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from tileferry.errors import printable
from tileferry.events import Call, Summary
from tileferry.log import size_text
from tileferry.model import Status
from tileferry.results import escaped

if TYPE_CHECKING:
    from pathlib import Path

_STATUSES = (
    (Status.UPLOADED, "uploaded", "new in the store"),
    (Status.UNCHANGED, "unchanged", "were in the store already"),
    (Status.DUPLICATE, "duplicate", "share another row's image"),
    (Status.FAILED, "failed", ""),
    (Status.PENDING, "pending", "not finished; the next run takes them up where they stand"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What the summary tells: the run's figures, its results file (`None`: there is none), the command to
    repeat.

    `arguments` are the words after `tileferry`, and `manifest` is that one of them which named the manifest.
    """

    summary: Summary
    results: Path | None = None
    arguments: tuple[str, ...] = ()
    manifest: str = ""

    def again(self, manifest: str | None = None) -> str:
        """The same command once more, ready to be pasted; for another manifest where one is given."""
        arguments = [manifest if manifest and word == self.manifest else word for word in self.arguments]
        return escaped(shlex.join(["tileferry", *arguments]))


def figures(closing: Closing) -> list[tuple[str, str, str]]:
    """The rows of the summary: a name, a figure, a remark."""
    summary = closing.summary
    rows = [
        (name, f"{summary.count(status):,}", remark if summary.count(status) else "")
        for status, name, remark in _STATUSES
        if summary.count(status) or status not in {Status.DUPLICATE, Status.PENDING}
    ]
    place = next(number for number, row in enumerate(rows) if row[0] == "failed") + 1
    rows += [
        (f"store {store.store_id}", f"{store.rows - store.missing:,}", "in the store") for store in summary.stores
    ]
    reasons = sorted(summary.failures.items(), key=lambda item: (-item[1], item[0]))
    rows[place:place] = [("", f"{number:,}", printable(reason)) for reason, number in reasons]
    rows += [
        ("sent", size_text(summary.sent_bytes), ""),
        ("time", duration_text(summary.seconds), ""),
        ("API calls", f"{summary.api_calls:,}", _calls_remark(summary)),
    ]
    return rows


def places(closing: Closing) -> list[tuple[str, str]]:
    """Where what was recorded is."""
    stores = closing.summary.stores or (closing.summary,)
    ledgers = [("ledger", escaped(str(summary.ledger))) for summary in stores]
    return ledgers if closing.results is None else [*ledgers, ("results", escaped(str(closing.results)))]


def advice(closing: Closing) -> list[str]:
    """What to do next, as sentences and commands; nothing where nothing is to be done."""
    summary = closing.summary
    lines = []
    if summary.count(Status.PENDING):
        lines += ["To go on with the pending rows, run the same command again:", f"  {closing.again()}"]
    if summary.count(Status.FAILED):
        lines.append("Once the reasons are dealt with, run the same command again, or take only the failed rows:")
        for store in summary.stores or (summary,):
            if store.count(Status.FAILED) and store.run_id:
                ledger = escaped(shlex.quote(str(store.ledger)))
                failed = f"failed-{store.store_id}.csv" if summary.stores else "failed.csv"
                lines += [
                    f"  tileferry results --ledger {ledger} --status failed --output {failed}",
                    f"  {closing.again(failed)}",
                ]
    return lines


def duration_text(seconds: float) -> str:
    """A time span for a person: `4.2 s`, `3 min 20 s`, `5 h 31 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def one_line(closing: Closing) -> str:
    """The whole summary in one line, for `--quiet`."""
    summary = closing.summary
    counts = ", ".join(
        f"{summary.count(status):,} {name}" for status, name, _remark in _STATUSES if summary.count(status)
    )
    return f"{counts or 'no rows'} in {duration_text(summary.seconds)}"


def plain_text(closing: Closing) -> str:
    """The summary as aligned lines."""
    rows = figures(closing)
    widest = max(len(figure) for _name, figure, _remark in rows)
    lines = [f"  {name:<10} {figure:>{widest}}  {remark}".rstrip() for name, figure, remark in rows]
    lines += [f"  {name:<10} {place}" for name, place in places(closing)]
    return "\n".join([_headline(closing.summary), *lines, *advice(closing)]) + "\n"


def table_text(closing: Closing, stream: TextIO, width: int) -> str:
    """The summary as a table for the terminal behind `stream`; colored unless NO_COLOR says otherwise."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, width=width, highlight=False)
    table = Table(box=box.SIMPLE, show_header=False, title=_headline(closing.summary), title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for name, figure, remark in figures(closing):
        style = {"uploaded": "green", "failed": "red", "pending": "yellow"}.get(name, "")
        table.add_row(name, Text(figure, style if figure != "0" else ""), Text(remark))
    with console.capture() as captured:
        console.print(table)
        for line in [*(f"  {name:<9} {place}" for name, place in places(closing)), *advice(closing)]:
            # Paths and commands are there to be copied: never broken, never taken for markup.
            console.print(Text(line), soft_wrap=True)
    return captured.get()


def _headline(summary: Summary) -> str:
    number = summary.rows
    rows = "1 row" if number == 1 else f"{number:,} rows"
    if summary.interrupted:
        return f"Interrupted; everything that was done is recorded ({rows})."
    if summary.complete:
        return f"Done: every row is in the store ({rows})."
    return f"Not all rows are in the store ({rows})."


def _calls_remark(summary: Summary) -> str:
    notes = {
        "uploads": summary.calls.get(Call.UPLOAD, 0),
        "retries": summary.retries,
        "pauses asked for": summary.throttled,
    }
    told = ", ".join(f"{name}: {number:,}" for name, number in notes.items() if number)
    return f"({told})" if told else ""
