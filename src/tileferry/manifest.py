"""The manifest: text to rows, streamed, errors with file and line.

CSV with a header (`tileId,path`, further columns are carried along untouched) or JSON lines with the same keys.
A bad row is no error: it becomes a `BadRow` that says what is wrong and where, and the others go on.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tileferry.errors import ManifestError, printable
from tileferry.model import BadRow, Row

TILE_COLUMN = "tileId"
PATH_COLUMN = "path"
STORE_COLUMN = "storeId"
"""Optional: the store that a row is for. It is carried into the results like any further column."""

LONGEST_ROW = 1024 * 1024
"""Characters; a quote that is never closed would otherwise swallow the rest of the file."""

_STORE_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})

_NOT_TEXT = (
    (b"PK\x03\x04", "an Excel or OpenDocument file; save it as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file; save it as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed (gzip); unpack it first"),
    (b"%PDF", "a PDF document; export the table as CSV (UTF-8)"),
    (b"SQLite format 3\0", "a database; export the table as CSV (UTF-8)"),
    (b"\xff\xd8\xff", "a picture; name the table that lists the pictures"),
    (b"\x89PNG", "a picture; name the table that lists the pictures"),
    (b"\xff\xfe", "in UTF-16; save it as CSV UTF-8"),
    (b"\xfe\xff", "in UTF-16; save it as CSV UTF-8"),
)

Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose head has been read. `extra_columns` are those beyond tile and path, in file order.

    In JSON lines any row may have further keys; `extra_columns` are then those of the first.
    """

    path: Path
    extra_columns: tuple[str, ...] = ()
    header: tuple[str, ...] | None = field(default=None, repr=False)

    @property
    def names_stores(self) -> bool:
        """Whether there is a column that says which store each row is for."""
        return any(name.lower() == STORE_COLUMN.lower() for name in self.extra_columns)

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows, read as a stream from the beginning; blocking.

        Raises `ManifestError` when the file cannot be read on; the rows before that are good.
        """
        try:
            with _open(self.path) as text:
                yield from _csv_rows(self, text) if self.header is not None else _json_rows(self, text)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc


def open_manifest(path: Path) -> Manifest:
    """Read the head of the manifest at `path` and tell what it is.

    Raises `ManifestError` when it is missing, no text, or lacks a column.
    """
    try:
        # A pipe cannot be read a second time, and opening one would wait for whoever writes to it.
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ManifestError(f"{printable(str(path))} is no regular file; save the manifest to a file first.")
        with path.open("rb") as file:
            head = file.read(4096)
        _check_text(path, head)
        first = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not first:
            raise ManifestError(f"{printable(str(path))} is empty; {_EXPECTED}")
        if first.startswith(b"{") or path.suffix.lower() in _JSON_SUFFIXES:
            return _json_manifest(path)
        return _csv_manifest(path)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


_EXPECTED = (
    f"expected a header line with the columns {TILE_COLUMN} and {PATH_COLUMN}, for example "
    f"`{TILE_COLUMN},{PATH_COLUMN}`, and a line for each picture."
)


def _csv_manifest(path: Path) -> Manifest:
    with _open(path) as text:
        for line, header in _csv_records(path, text):
            return Manifest(path, _extra_columns(path, line, header), tuple(header))
    raise ManifestError(f"{printable(str(path))} holds blank lines only; {_EXPECTED}")


def _extra_columns(path: Path, line: int, header: Sequence[str]) -> tuple[str, ...]:
    names = [cell.strip().lower() for cell in header]
    for column in (TILE_COLUMN, PATH_COLUMN):
        where = f"{printable(str(path))}, line {line}"
        found = ", ".join(printable(cell.strip()) or '""' for cell in header)
        if column.lower() not in names:
            near = difflib.get_close_matches(column.lower(), names, n=1, cutoff=0.6)
            hint = f" Is {printable(header[names.index(near[0])].strip())} meant to be {column}?" if near else ""
            raise ManifestError(
                f"{where}: there is no column {column}. Found: {found}.{hint} Name the columns "
                f"{TILE_COLUMN} and {PATH_COLUMN} in the first line."
            )
        if names.count(column.lower()) > 1:
            raise ManifestError(f"{where}: the column {column} is there twice. Found: {found}.")
    return tuple(cell.strip() for cell in header if cell.strip().lower() not in _REQUIRED)


_REQUIRED = frozenset({TILE_COLUMN.lower(), PATH_COLUMN.lower()})


def _csv_rows(manifest: Manifest, text: io.TextIOBase) -> Iterator[Row | BadRow]:
    header = [cell.strip() for cell in manifest.header or ()]
    records = _csv_records(manifest.path, text)
    # Other columns than those that were checked would send pictures to wrong tiles.
    if tuple(next(records, (0, []))[1]) != manifest.header:
        raise ManifestError(
            f"{printable(str(manifest.path))} changed while it was being read; run the same command again when "
            "it is complete."
        )
    for line, cells in records:
        yield _csv_row(manifest, line, header, cells)


def _csv_records(path: Path, text: io.TextIOBase) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, the header too, with the number of the line on which it begins."""
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            # Where a quote goes astray, nobody can tell where the next row begins.
            raise ManifestError(
                f"{printable(str(path))}, line {lines.begun}: {_csv_problem(exc)} Mend that line; nothing beyond "
                "it could be read."
            ) from exc
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield lines.begun, cells


def _csv_row(manifest: Manifest, line: int, header: list[str], cells: list[str]) -> Row | BadRow:
    named = dict(zip(header, cells, strict=False))
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    problem = ""
    if len(cells) != len(header):
        many = "many" if len(cells) > len(header) else "few"
        problem = (
            f"there are too {many} fields: {len(cells)} instead of {len(header)} ({', '.join(header)}); a field "
            'that holds a comma needs quotes ("…")'
        )
        problem = printable(problem)
    return _row(manifest, line, named, problem)


def _json_manifest(path: Path) -> Manifest:
    with _open(path) as text:
        for row in _json_objects(path, text):
            if not isinstance(row[1], str):
                extra = [name for name in row[1] if name.lower() not in _REQUIRED]
                missing = [
                    column
                    for column in (TILE_COLUMN, PATH_COLUMN)
                    if column.lower() not in {name.lower() for name in row[1]}
                ]
                if len(missing) == 2:
                    found = printable(", ".join(row[1])) or "none"
                    raise ManifestError(
                        f"{printable(str(path))}, line {row[0]}: there are no keys {TILE_COLUMN} and "
                        f"{PATH_COLUMN}. Found: {found}. Each line must look like "
                        f'{{"{TILE_COLUMN}": "hero-1", "{PATH_COLUMN}": "images/hero.jpg"}}.'
                    )
                return Manifest(path, tuple(extra))
    raise ManifestError(
        f"{printable(str(path))} holds no JSON object; each line must look like "
        f'{{"{TILE_COLUMN}": "hero-1", "{PATH_COLUMN}": "images/hero.jpg"}}.'
    )


def _json_rows(manifest: Manifest, text: io.TextIOBase) -> Iterator[Row | BadRow]:
    for line, found in _json_objects(manifest.path, text):
        if isinstance(found, str):
            yield _row(manifest, line, {}, found)
            continue
        yield _row(manifest, line, found, "")


def _json_objects(path: Path, text: io.TextIOBase) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Each line's number with its object, values as text, or with what is wrong with it."""
    for number, line in enumerate(iter(lambda: text.readline(LONGEST_ROW), ""), start=1):
        if len(line) >= LONGEST_ROW:
            raise ManifestError(
                f"{printable(str(path))}, line {number}: this line is longer than {LONGEST_ROW} characters; "
                "write one JSON object a line."
            )
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line.encode("utf-8", "surrogateescape"), type=dict[str, msgspec.Raw])
            cells = {name: _as_text(value) for name, value in found.items()}
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            yield number, f"this line is not a JSON object: {printable(line.strip()[:60])}"
        else:
            yield number, cells


def _row(manifest: Manifest, line: int, named: Cells, problem: str) -> Row | BadRow:
    cells = {name.lower(): value for name, value in named.items()}
    tile_id = cells.get(TILE_COLUMN.lower(), "").strip()
    source = cells.get(PATH_COLUMN.lower(), "").strip()
    extra = {name: value for name, value in named.items() if name.lower() not in _REQUIRED}
    store = cells.get(STORE_COLUMN.lower(), "").strip()
    store_id = int(store) if _STORE_ID.fullmatch(store) else None
    problem = problem or _problem(tile_id, source)
    if store and store_id is None:
        problem = problem or f"the {STORE_COLUMN} is {printable(store)}; expected a store's number"
    if problem:
        return BadRow(
            line=line,
            tile_id=tile_id,
            source=source,
            problem=f"{printable(manifest.path.name)}, line {line}: {problem}",
            extra=extra,
            store_id=store_id,
        )
    # Absolute, so that the same file has the same name in the ledger wherever tileferry is started from.
    path = (manifest.path.parent / source).absolute()
    return Row(line=line, tile_id=tile_id, source=source, path=path, extra=extra, store_id=store_id)


def _problem(tile_id: str, source: str) -> str:
    if not tile_id:
        return f"the {TILE_COLUMN} is empty; give the id of the tile that the picture belongs to"
    if not source:
        return f"the {PATH_COLUMN} is empty; give the picture's file"
    for name, text in ((TILE_COLUMN, tile_id), (PATH_COLUMN, source)):
        if "\0" in text:
            return f"the {name} holds a NUL character; was the file damaged?"
    if any("\ud800" <= character <= "\udfff" for character in tile_id):
        return f"the {TILE_COLUMN} is not proper UTF-8; save the manifest as UTF-8"
    return ""


def _as_text(value: msgspec.Raw) -> str:
    """A text's content; of anything else its JSON as it stands there: 1.10 is not 1.1 where it is an id."""
    written = bytes(value)
    if written.startswith(b'"'):
        return msgspec.json.decode(written, type=str)
    return "" if written == b"null" else written.decode()


def _csv_problem(error: csv.Error) -> str:
    told = str(error)
    if "unexpected end" in told:
        return "a quote is opened here and never closed."
    if "field larger" in told:
        return "this row is far too long; is a quote opened here and never closed?"
    if "expected after" in told:
        return "a quoted field does not end where its quote ends."
    return f"this is not proper CSV ({told})."


def _check_text(path: Path, head: bytes) -> None:
    for beginning, what in _NOT_TEXT:
        if head.startswith(beginning):
            raise ManifestError(f"{printable(str(path))} is {what}.")
    # Below the header a NUL character spoils its own row only.
    if b"\0" in head.lstrip().partition(b"\n")[0]:
        raise ManifestError(f"{printable(str(path))} is no text file; expected CSV or JSON lines in UTF-8.")


def _open(path: Path) -> io.TextIOWrapper:
    # What is not UTF-8 is kept as it is: on many systems it is a perfectly good file name.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _unreadable(path: Path, error: OSError) -> ManifestError:
    name = printable(str(path))
    if isinstance(error, FileNotFoundError):
        return ManifestError(f"the manifest {name} does not exist.")
    if isinstance(error, IsADirectoryError):
        return ManifestError(f"{name} is a folder; name the manifest in it.")
    if isinstance(error, PermissionError):
        return ManifestError(f"the manifest {name} may not be read: permission denied.")
    return ManifestError(f"the manifest {name} cannot be read: {error.strerror}.")


class _Lines:
    """Lines for the CSV reader, counted: `begun` is the line on which the current row began."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._number = 0
        self._length = 0
        self.begun = 0

    def begin_row(self) -> None:
        """The next line begins a row."""
        self.begun = self._number + 1
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST_ROW)
        if not line:
            raise StopIteration
        self._number += 1
        self._length += len(line)
        if self._length >= LONGEST_ROW:
            raise csv.Error("field larger than a row may be")
        return line
