"""The results file and the manifest of failed rows: columns, escaping, and all or nothing on disk."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tileferry.errors import LedgerError, UsageError
from tileferry.model import Outcome, Status
from tileferry.results import (
    COLUMNS,
    Format,
    check_results_path,
    escaped,
    stream_results,
    write_manifest,
    write_results,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

UPLOADED = Outcome(
    line=2,
    tile_id="hero-1",
    source="images/x.jpg",
    status=Status.UPLOADED,
    image_id="img/1",
    url="https://cdn.example/x.jpg",
    width=640,
    height=480,
    size=12345,
    digest="ab" * 32,
    attempts=3,
    seconds=1.23456,
    extra={"alt": "A teapot"},
)
FAILED = Outcome(
    line=3,
    tile_id="=1+1",
    source="naïve.png",
    status=Status.FAILED,
    error="not an image",
    reason="not an image",
    extra={"alt": "-5"},
)


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def csv_cells(outcome: Outcome, *extras: str) -> dict[str, str]:
    stream = io.StringIO(newline="")
    stream_results(stream, Format.CSV, [outcome], extras)
    header, row = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    return dict(zip(header, row, strict=True))


def test_the_columns_are_a_contract() -> None:
    """Scripts depend on the names and the order of the columns."""
    assert ",".join(COLUMNS) == (
        "line,tile_id,source,status,image_id,url,width,height,size,digest,attempts,seconds,error"
    )


def test_csv_has_exactly_the_promised_columns_then_the_extra_ones(tmp_path: Path) -> None:
    """A script can rely on the order and the names of the columns, and on empty cells for what is unknown."""
    path = tmp_path / "results.csv"
    assert write_results(path, [UPLOADED, FAILED], ["alt"]) == 2
    assert csv_rows(path) == [
        [*COLUMNS, "alt"],
        [
            "2",
            "hero-1",
            "images/x.jpg",
            "uploaded",
            "img/1",
            "https://cdn.example/x.jpg",
            "640",
            "480",
            "12345",
            "ab" * 32,
            "3",
            "1.235",
            "",
            "A teapot",
        ],
        ["3", "'=1+1", "naïve.png", "failed", "", "", "", "", "", "", "0", "0.0", "not an image", "'-5"],
    ]


def test_csv_is_utf8_without_mark_and_ends_lines_in_lf(tmp_path: Path) -> None:
    """The first column's name is really `line`, and each row is one line for line-based tools."""
    path = tmp_path / "results.csv"
    write_results(path, [FAILED])
    content = path.read_bytes()
    assert content.startswith(b"line,")
    assert b"\r" not in content
    assert content.count(b"\n") == 2
    assert "naïve".encode() in content


def test_jsonl_keeps_types_and_texts(tmp_path: Path) -> None:
    """Numbers are numbers, unknown ones null, and a formula-like text has no apostrophe."""
    path = tmp_path / "results.jsonl"
    assert write_results(path, [UPLOADED, FAILED], ["alt"]) == 2
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert list(first) == [*COLUMNS, "alt"]
    assert (first["line"], first["width"], first["seconds"]) == (2, 640, 1.235)
    assert (second["tile_id"], second["width"], second["digest"], second["alt"]) == ("=1+1", None, "", "-5")
    assert "naïve" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("＝1", "'＝1"),
        ("'quoted", "'quoted"),
        ("a=1", "a=1"),
        ("two\nlines", r"two\nlines"),
        ("esc\x1b[31m", r"esc\x1b[31m"),
        ("\u202eoverride", r"\u202eoverride"),
        ("lone\udc80", r"lone\udc80"),
        ("ünïcode, 日本", "ünïcode, 日本"),
        ("x" * 1000 + "\x07", "x" * 1000 + r"\x07"),
    ],
)
def test_csv_cells_do_no_harm(text: str, cell: str) -> None:
    """No cell is a formula to a spreadsheet or a control sequence to a terminal, and none loses anything."""
    outcome = Outcome(line=1, tile_id=text, source=text, status=Status.FAILED, error=text, extra={text: text})
    cells = csv_cells(outcome, text)
    assert {cells["tile_id"], cells["source"], cells["error"], cells[cell]} == {cell}


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202e", "a\udc80", "two\nlines", "\x85", "日本"])
def test_jsonl_round_trips_any_text_in_one_printable_line(text: str) -> None:
    """Whatever a cell holds, it comes back from JSON as it was, and the line itself is safe to look at."""
    stream = io.StringIO(newline="")
    outcome = Outcome(line=1, tile_id=text, source="", status=Status.FAILED)
    stream_results(stream, Format.JSONL, [outcome])
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json.loads(line)["tile_id"] == text


@pytest.mark.parametrize("kind", list(Format))
def test_extra_columns_never_hide_ours(kind: Format) -> None:
    """A manifest column called `status` or `url` appears beside ours under another name."""
    extras = ("manifest_status", "status", "url", "alt")
    outcome = Outcome(
        line=1, tile_id="t", source="s", status=Status.FAILED, extra=dict(zip(extras, "abcd", strict=True))
    )
    stream = io.StringIO(newline="")
    stream_results(stream, kind, [outcome], extras)
    if kind is Format.CSV:
        header, row = csv.reader(io.StringIO(stream.getvalue()))
        record = dict(zip(header, row, strict=True))
    else:
        record = json.loads(stream.getvalue())
    assert record["status"] == "failed"
    added = {name: record[name] for name in list(record)[len(COLUMNS) :]}
    assert added == {
        "manifest_status": "a",
        "manifest_manifest_status": "b",
        "manifest_url": "c",
        "alt": "d",
    }


def test_jsonl_carries_extras_that_were_not_announced() -> None:
    """JSON rows may each bring keys of their own; none is lost, and none hides a column."""
    stream = io.StringIO(newline="")
    outcomes = [
        Outcome(line=1, tile_id="t", source="s", status=Status.FAILED, extra={"alt": "x"}),
        Outcome(line=2, tile_id="t", source="s", status=Status.FAILED, extra={"size": "big"}),
    ]
    stream_results(stream, Format.JSONL, outcomes, ["alt"])
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["alt"] == "x"
    assert "alt" not in second
    assert (second["size"], second["manifest_size"]) == (None, "big")


def test_results_are_streamed(tmp_path: Path) -> None:
    """Twenty thousand rows take no more memory than a few hundred do."""

    def many() -> Iterator[Outcome]:
        for number in range(20_000):
            yield Outcome(line=number, tile_id="t" * 100, source="s" * 100, status=Status.UNCHANGED)

    tracemalloc.start()
    try:
        assert write_results(tmp_path / "results.jsonl", many()) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """When the outcomes break off, what was there stays and nothing half-written is left."""
    path = tmp_path / "results.csv"
    path.write_text("old", encoding="utf-8")

    def broken() -> Iterator[Outcome]:
        yield UPLOADED
        raise LedgerError("the ledger is damaged.")

    with pytest.raises(LedgerError):
        write_results(path, broken())
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that cannot reach the disk end in a usage error that says why, with no draft left behind."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tileferry.results.os.fsync", full)
    with pytest.raises(UsageError, match=r"results\.csv cannot be written: No space left on device"):
        write_results(tmp_path / "results.csv", [UPLOADED])
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut can leave the old file or the new one, never an empty one under the new name."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr("tileferry.results.os.fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_results(tmp_path / "results.csv", [UPLOADED])
    assert steps == ["file", "replace", "folder"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Results written through a symbolic link land where it leads."""
    real = tmp_path / "real.csv"
    real.write_text("", encoding="utf-8")
    link = tmp_path / "link.csv"
    link.symlink_to(real)
    write_results(link, [UPLOADED])
    assert link.is_symlink()
    assert "hero-1" in real.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("results.xlsx", r"results\.xlsx must end in \.csv or \.jsonl"),
        ("results", r"must end in \.csv or \.jsonl"),
        ("missing/results.csv", r"no folder .*missing for the results file"),
        ("folder.csv", r"folder\.csv is a folder"),
    ],
)
def test_a_bad_path_is_refused_early(tmp_path: Path, name: str, sentence: str) -> None:
    """A results path that cannot work is told before anything is uploaded."""
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=sentence):
        check_results_path(tmp_path / name)


def test_a_closed_folder_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without write permission is told before anything is uploaded."""
    monkeypatch.setattr("tileferry.results.os.access", lambda *_: False)
    with pytest.raises(UsageError, match="not writable"):
        check_results_path(tmp_path / "results.csv")


@pytest.mark.parametrize(("name", "kind"), [("a.CSV", Format.CSV), ("b.jsonl", Format.JSONL)])
def test_the_ending_decides_the_format(tmp_path: Path, name: str, kind: Format) -> None:
    """The format follows the file's name, in whatever case it is written."""
    assert check_results_path(tmp_path / name) is kind


def test_a_manifest_of_failed_rows_holds_them_verbatim(tmp_path: Path) -> None:
    """Only failed rows are in it, with their extras, and a formula-like tile id has no apostrophe."""
    path = tmp_path / "failed.csv"
    tricky = Outcome(line=9, tile_id='two\n"lines"', source="a,b.jpg", status=Status.FAILED, extra={"alt": "@x"})
    assert write_manifest(path, [UPLOADED, FAILED, tricky], ["alt"]) == 2
    assert csv_rows(path) == [
        ["tileId", "path", "alt"],
        ["=1+1", "naïve.png", "-5"],
        ['two\n"lines"', "a,b.jpg", "@x"],
    ]


def test_a_manifest_takes_its_columns_from_the_first_failed_row() -> None:
    """Where nobody says which extra columns there are, the first row tells."""
    stream = io.StringIO(newline="")
    write_manifest(stream, [FAILED])
    assert stream.getvalue() == "tileId,path,alt\n=1+1,naïve.png,-5\n"


def test_a_manifest_without_rows_still_has_its_header() -> None:
    """Nothing failed: the file is a valid manifest of no rows."""
    stream = io.StringIO(newline="")
    assert write_manifest(stream, [UPLOADED], ["alt"]) == 0
    assert stream.getvalue() == "tileId,path,alt\n"


def test_a_manifest_in_json_lines_keeps_everything(tmp_path: Path) -> None:
    """JSON lines carry even what CSV cannot, such as a file name that is not UTF-8."""
    path = tmp_path / "failed.jsonl"
    odd = Outcome(line=1, tile_id="t", source="b\udc80.jpg", status=Status.FAILED, extra={"k": "v"})
    assert write_manifest(path, [odd]) == 1
    assert json.loads(path.read_text(encoding="utf-8")) == {"tileId": "t", "path": "b\udc80.jpg", "k": "v"}


def test_a_manifest_in_csv_survives_a_lone_surrogate(tmp_path: Path) -> None:
    """A text that is no proper Unicode does not end the export."""
    odd = Outcome(line=1, tile_id="t", source="b\ud800.jpg", status=Status.FAILED)
    assert write_manifest(tmp_path / "failed.csv", [odd]) == 1


def test_sources_are_relocated_but_never_invented() -> None:
    """A relative path is rewritten for the new manifest's place; an empty one stays empty."""
    stream = io.StringIO(newline="")
    empty = Outcome(line=4, tile_id="t", source="", status=Status.FAILED)
    write_manifest(stream, [FAILED, empty], (), locate=lambda source: f"/shop/{source}")
    assert stream.getvalue() == "tileId,path\n=1+1,/shop/naïve.png\nt,\n"


def test_escaping_shortens_nothing() -> None:
    """What is escaped for the results keeps its full length, unlike what is shown in messages."""
    assert escaped("\x00" + "y" * 5000) == r"\x00" + "y" * 5000
