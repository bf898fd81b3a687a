"""`tileferry status` and `tileferry results`: what the ledger holds, also while a run is using it."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tileferry.cli.closing import duration_text
from tileferry.errors import UsageError, printable
from tileferry.history import History, PastRun, open_history
from tileferry.model import Outcome, Stage, Status
from tileferry.results import Format, check_results_path, stream_results, write_manifest, write_results

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_STAGES = {
    Stage.CLAIMED: "not begun, or to be begun again",
    Stage.RESERVED: "an upload slot is reserved; the next run asks whether the image arrived",
    Stage.SENT: "sent; the next run or `tileferry confirm` asks for its result",
    Stage.CONFIRMED: "in the store",
    Stage.FAILED: "refused",
}


def show_status(ledger: Path, *, as_json: bool = False) -> None:
    """Print what the ledger knows to standard output. Raises `LedgerError` when there is none."""
    with contextlib.closing(open_history(ledger)) as history:
        text = json.dumps(status_record(history), indent=2) if as_json else status_text(history)
    with data_output() as stream:
        stream.write(text + "\n")


def status_text(history: History) -> str:
    """The ledger's content for a person."""
    host, store_id = history.origin()
    stages = history.stages()
    lines = [
        f"Store {store_id} on {printable(host)}",
        f"Ledger {printable(str(history.path))}",
        "",
        "Images",
        *(f"  {stages[stage]:>8,} {stage.value:<10} {_STAGES[stage]}" for stage in Stage if stages.get(stage)),
    ]
    if not stages:
        lines.append("  none yet")
    runs = history.runs()
    lines += ["", "Latest runs"]
    lines += [_run_line(run) for run in runs] or ["  none yet"]
    return "\n".join(lines)


def status_record(history: History) -> dict[str, object]:
    """The ledger's content for a program: times are ISO 8601 in UTC, `ended` is null while a run goes on."""
    host, store_id = history.origin()
    stages = history.stages()
    return {
        "host": host,
        "store_id": store_id,
        "ledger": str(history.path),
        "images": {stage.value: stages.get(stage, 0) for stage in Stage},
        "runs": [
            {
                "run_id": run.run_id,
                "started": _moment(run.started_at).isoformat(timespec="seconds"),
                "ended": None if run.ended_at is None else _moment(run.ended_at).isoformat(timespec="seconds"),
                "process_id": run.process_id,
                "manifest": run.manifest,
                "rows": {status.value: run.statuses.get(status, 0) for status in Status},
            }
            for run in history.runs()
        ],
    }


def export(
    ledger: Path,
    *,
    statuses: Collection[Status] = (),
    run_id: int | None = None,
    output: Path | None = None,
    kind: Format = Format.CSV,
) -> int:
    """Write the results of a run (the latest, if none is named) to `output` or to standard output.

    Only the failed ones come as a manifest of just those rows; `output`'s ending goes before `kind`.
    Returns how many rows there were. Raises `LedgerError` or `UsageError` when there is nothing to export
    or nowhere to.
    """
    if output is not None:
        check_results_path(output)
    with contextlib.closing(open_history(ledger)) as history:
        run = _chosen_run(history, run_id)
        outcomes = _filtered(history.outcomes(run.run_id), statuses)
        if set(statuses) == {Status.FAILED}:
            locate = locator(run.manifest, output)
            if output is not None:
                return write_manifest(output, outcomes, run.extra_columns, locate=locate)
            with data_output() as stream:
                return write_manifest(stream, outcomes, run.extra_columns, kind=kind, locate=locate)
        if output is not None:
            return write_results(output, outcomes, run.extra_columns)
        with data_output() as stream:
            return stream_results(stream, kind, outcomes, run.extra_columns)


def locator(manifest: str, output: Path | None) -> Callable[[str], str]:
    """How a source is written in a manifest of failed rows, so that it leads to the same file as before.

    A relative path starts at its manifest's folder, so it is completed unless the new manifest lies there
    too.
    """
    folder = Path(manifest).parent
    if not folder.is_absolute() or (output is not None and output.absolute().parent == folder):
        return str
    return lambda source: str(folder / source)


@contextlib.contextmanager
def data_output() -> Iterator[TextIO]:
    """Standard output for data: UTF-8 and as written, whatever the locale and the system are.

    A text that is no proper Unicode is escaped. A reader that has seen enough (`| head`) ends the program quietly.
    Raises `UsageError` when nothing can be written for another reason.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(0) from None
    except OSError as exc:
        _discard_output()
        raise UsageError(f"standard output cannot be written: {exc.strerror}.") from exc


def _discard_output() -> None:
    """Let what is still buffered go nowhere, or it would fail once more when the program ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _chosen_run(history: History, run_id: int | None) -> PastRun:
    for run in history.runs(limit=1 if run_id is None else -1):
        if run_id in {None, run.run_id}:
            return run
    if run_id is None:
        raise UsageError(f"the ledger {printable(str(history.path))} knows of no run yet.")
    raise UsageError(
        f"the ledger {printable(str(history.path))} knows of no run {run_id}; `tileferry status` lists them."
    )


def _filtered(outcomes: Iterable[Outcome], statuses: Collection[Status]) -> Iterator[Outcome]:
    return (outcome for outcome in outcomes if not statuses or outcome.status in statuses)


def _run_line(run: PastRun) -> str:
    began = _moment(run.started_at).astimezone().strftime("%Y-%m-%d %H:%M")
    took = (
        f"not ended (process {run.process_id})"
        if run.ended_at is None
        else duration_text(max(0.0, run.ended_at - run.started_at))
    )
    counts = ", ".join(f"{run.statuses[status]:,} {status.value}" for status in Status if run.statuses.get(status))
    return f"  {run.run_id:>4}  {began}  {took}  {counts or 'no rows'}  {printable(run.manifest)}"


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
