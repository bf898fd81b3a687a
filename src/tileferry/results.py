"""Outcomes → the results file (CSV or JSON lines), and failed rows → a manifest that `upload` takes again.

Both are streamed: a million rows take no more memory than one. A results CSV is read by people in
spreadsheets and by scripts, so it is UTF-8 without a byte order mark (a script would take that for a part
of the first column's name), its lines end in LF, and every row is exactly one line: characters that would
control a terminal are escaped. A cell that a spreadsheet would run as a formula gets a leading apostrophe;
numbers are ours and get none. JSON lines hold every text exactly as it was. So does the manifest of failed
rows, which is made for `upload` and not for a spreadsheet: an apostrophe there would name another tile.
"""

from __future__ import annotations

import contextlib
import csv
import enum
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tileferry.errors import UsageError, printable
from tileferry.model import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

COLUMNS = (
    "line",
    "tile_id",
    "source",
    "status",
    "image_id",
    "url",
    "width",
    "height",
    "size",
    "digest",
    "attempts",
    "seconds",
    "error",
)
"""The columns of a results file; the manifest's own further columns follow them."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet take a cell for a formula (the last four in East Asian versions)."""

Cell = str | int | float | None


class Format(enum.Enum):
    """How results are written; the value is the file name's ending."""

    CSV = "csv"
    JSONL = "jsonl"


def check_results_path(path: Path) -> Format:
    """The format that `path` asks for, if results can be written there.

    Raises `UsageError` when its ending is neither `.csv` nor `.jsonl`, or its folder is missing or closed
    to us.
    """
    try:
        found = Format(path.suffix.lower().removeprefix("."))
    except ValueError:
        raise UsageError(
            f"the results file {printable(str(path))} must end in .csv or .jsonl; that decides its format."
        ) from None
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"the results file {printable(str(path))} is a folder; name a file in it.")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {printable(str(folder))} for the results file; create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"the folder {printable(str(folder))} of the results file is not writable; choose another."
        )
    return found


def write_results(path: Path, outcomes: Iterable[Outcome], extra_columns: Sequence[str] = ()) -> int:
    """Write `outcomes` to `path`, in CSV or JSON lines by its ending, and return how many there were.

    The file appears whole or not at all: an older one stays until the new one is on disk. Raises `UsageError`
    when it cannot be written, and whatever `outcomes` raises.
    """
    kind = check_results_path(path)
    with _replacing(path) as stream:
        return stream_results(stream, kind, outcomes, extra_columns)


def stream_results(
    stream: TextIO, kind: Format, outcomes: Iterable[Outcome], extra_columns: Sequence[str] = ()
) -> int:
    """Write `outcomes` to an open text stream (UTF-8, no newline translation); return how many there were.

    CSV has a column for each of `extra_columns`; JSON lines carry whatever each row carries. A column whose
    name is taken already is prefixed with `manifest_`.
    """
    return (_stream_csv if kind is Format.CSV else _stream_jsonl)(stream, outcomes, extra_columns)


def write_manifest(
    target: Path | TextIO,
    outcomes: Iterable[Outcome],
    extra_columns: Sequence[str] | None = None,
    *,
    kind: Format = Format.CSV,
    locate: Callable[[str], str] = str,
) -> int:
    """Write the rows that failed as a manifest, and return how many there were.

    Every cell stands there as the first manifest had it, formula or not. `locate` turns a row's source into
    the one to write (a relative path holds only beside the manifest that it came from). Without
    `extra_columns` the first failed row tells them. A path decides the format by its ending, a stream
    follows `kind`. Raises `UsageError` when the file cannot be written.
    """
    failed = (outcome for outcome in outcomes if outcome.status is Status.FAILED)
    if isinstance(target, Path):
        kind = check_results_path(target)
        with _replacing(target) as stream:
            return _stream_manifest(stream, kind, failed, extra_columns, locate)
    return _stream_manifest(target, kind, failed, extra_columns, locate)


def escaped(text: str) -> str:
    """`text` with all that could control a terminal escaped, and nothing left out."""
    if text.isprintable():
        return text
    # One by one, because a whole text would lose its middle where it is long.
    return "".join(sign if sign.isprintable() else printable(sign) for sign in text)


def _stream_csv(stream: TextIO, outcomes: Iterable[Outcome], extra_columns: Sequence[str]) -> int:
    renamed = _renamed(extra_columns)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *(_harmless(name) for name in renamed)])
    number = 0
    for number, outcome in enumerate(outcomes, 1):  # noqa: B007 - the last number is the answer
        extras = (outcome.extra.get(name, "") for name in extra_columns)
        writer.writerow([_harmless(cell) for cell in (*_cells(outcome), *extras)])
    return number


def _stream_jsonl(stream: TextIO, outcomes: Iterable[Outcome], extra_columns: Sequence[str]) -> int:
    known = dict(zip(extra_columns, _renamed(extra_columns), strict=True))
    number = 0
    for number, outcome in enumerate(outcomes, 1):  # noqa: B007 - the last number is the answer
        if not outcome.extra.keys() <= known.keys():
            names = list(dict.fromkeys([*known, *outcome.extra]))
            known = dict(zip(names, _renamed(names), strict=True))
        record: dict[str, Cell] = dict(zip(COLUMNS, _cells(outcome), strict=True))
        record |= {known[name]: text for name, text in outcome.extra.items()}
        stream.write(_json_line(record))
    return number


def _stream_manifest(
    stream: TextIO,
    kind: Format,
    failed: Iterable[Outcome],
    extra_columns: Sequence[str] | None,
    locate: Callable[[str], str],
) -> int:
    writer = csv.writer(stream, lineterminator="\n")
    number = 0
    for number, outcome in enumerate(failed, 1):
        source = locate(outcome.source) if outcome.source else ""
        if kind is Format.JSONL:
            stream.write(_json_line({"tileId": outcome.tile_id, "path": source, **outcome.extra}))
            continue
        if extra_columns is None:
            extra_columns = tuple(outcome.extra)
        if number == 1:
            writer.writerow(["tileId", "path", *extra_columns])
        extras = (outcome.extra.get(name, "") for name in extra_columns)
        writer.writerow([outcome.tile_id, source, *extras])
    if not number and kind is Format.CSV:
        writer.writerow(["tileId", "path", *(extra_columns or ())])
    return number


def _cells(outcome: Outcome) -> tuple[Cell, ...]:
    """The row in the order of `COLUMNS`."""
    return (
        outcome.line,
        outcome.tile_id,
        outcome.source,
        outcome.status.value,
        outcome.image_id,
        outcome.url,
        outcome.width,
        outcome.height,
        outcome.size,
        outcome.digest,
        outcome.attempts,
        round(outcome.seconds, 3),
        outcome.error,
    )


def _renamed(extra_columns: Iterable[str]) -> list[str]:
    """The names under which the manifest's columns appear: none of them twice."""
    taken = set(COLUMNS)
    renamed = []
    for name in extra_columns:
        while name in taken:
            name = f"manifest_{name}"
        taken.add(name)
        renamed.append(name)
    return renamed


def _harmless(cell: Cell) -> Cell:
    """A CSV cell that neither a spreadsheet runs nor a terminal obeys; numbers stay as they are."""
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.startswith(FORMULA_STARTS) else "") + escaped(cell)


def _json_line(record: dict[str, Cell]) -> str:
    """One line of readable JSON; all in escapes where a control character or a lone surrogate is."""
    text = json.dumps(record, ensure_ascii=False)
    return (text if text.isprintable() else json.dumps(record)) + "\n"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text stream whose content takes the place of `path` in one step, or vanishes when the block fails."""
    # A link stays a link: what it leads to is replaced.
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        # A lone surrogate (a file name that is not UTF-8) must not end the writing; a CSV manifest keeps it.
        with draft.open("x", encoding="utf-8", errors="surrogatepass", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except OSError as exc:
        raise UsageError(
            f"{printable(str(path))} cannot be written: {exc.strerror or type(exc).__name__}. "
            "`tileferry results` writes the results again once there is room."
        ) from exc
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable where a folder can be synced; the file itself is on disk already."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
