"""From text to rows: what is read, and what is said of that which cannot be."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tileferry.errors import ImageError, ManifestError
from tileferry.images import examine
from tileferry.manifest import LONGEST_ROW, Manifest, open_manifest
from tileferry.model import BadRow, ImageKind, Row

SAMPLES = Path(__file__).parents[1] / "sample_manifests"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest, byte for byte."""

    def writing(content: str | bytes, name: str = "shop.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writing


Write = Callable[..., Path]


def read(path: Path) -> list[Row | BadRow]:
    """All rows of a manifest."""
    return list(open_manifest(path).rows())


def brief(path: Path) -> list[tuple[int, str, str]]:
    """Line, tile and path of each row; all must be good."""
    rows = read(path)
    assert [row for row in rows if isinstance(row, BadRow)] == []
    return [(row.line, row.tile_id, row.source) for row in rows]


def problem(path: Path) -> str:
    """What is wrong with the only row."""
    [row] = read(path)
    assert isinstance(row, BadRow)
    assert str(path.parent) not in row.problem
    return row.problem.removeprefix(f"{path.name}, line {row.line}: ")


def refusal(path: Path) -> str:
    """Why the manifest as a whole cannot be read."""
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert caught.value.exit_code == 2
    told = str(caught.value)
    assert str(path) in told
    assert told.endswith(".")
    return told


def test_a_row_has_all_its_facts(write: Write, tmp_path: Path) -> None:
    """Line, tile, path as written and where it leads, and further columns untouched."""
    path = write("tileId,path,alt,Note 2\nhero-1,images/a.jpg, a cup ,=1+1\n")
    manifest = open_manifest(path)
    assert manifest.extra_columns == ("alt", "Note 2")
    assert list(manifest.rows()) == [
        Row(
            line=2,
            tile_id="hero-1",
            source="images/a.jpg",
            path=tmp_path / "images/a.jpg",
            extra={"alt": " a cup ", "Note 2": "=1+1"},
        )
    ]


def test_json_lines_give_the_same_rows(write: Write, tmp_path: Path) -> None:
    """The same keys, further ones carried along; what is not text becomes its JSON text."""
    path = write(
        '{"tileId": "hero-1", "path": "images/a.jpg", "alt": " a cup ", "n": [1, {"a": null}], "none": null}\n'
        '{"path": "b.png", "TILEID": "hero-2", "more": true, "n": 1.5}\n'
    )
    manifest = open_manifest(path)
    assert manifest.extra_columns == ("alt", "n", "none")
    first, second = manifest.rows()
    assert first == Row(
        line=1,
        tile_id="hero-1",
        source="images/a.jpg",
        path=tmp_path / "images/a.jpg",
        extra={"alt": " a cup ", "n": '[1, {"a": null}]', "none": ""},
    )
    assert second.tile_id == "hero-2"
    assert second.extra == {"more": "true", "n": "1.5"}


@pytest.mark.parametrize(
    "text",
    [
        "tileId,path\na,b.jpg\n",
        "TILEID,Path\na,b.jpg",
        "tileId,path\r\na,b.jpg\r\n",
        "tileId,path\ra,b.jpg\r",
        "\ufefftileId,path\na,b.jpg\n",
        '\ufeff"tileId","path"\n"a","b.jpg"\n',
        " tileId , path \n  a\t, b.jpg \n",
    ],
)
def test_csv_as_programs_write_it(write: Write, text: str) -> None:
    """Line ends, a byte order mark, quotes, capitals and blanks around cells make no difference."""
    assert brief(write(text)) == [(2, "a", "b.jpg")]


def test_columns_may_stand_in_any_order(write: Write) -> None:
    """Cells are found by their column's name."""
    path = write("alt,path,x,tileId\ncup,b.jpg,,a\n")
    assert brief(path) == [(2, "a", "b.jpg")]
    assert open_manifest(path).extra_columns == ("alt", "x")
    assert read(path)[0].extra == {"alt": "cup", "x": ""}


@pytest.mark.parametrize("name", ["shop.jsonl", "shop.NDJSON", "shop.csv", "shop"])
def test_json_is_told_by_content(write: Write, name: str) -> None:
    """A first line that begins with a brace is JSON, whatever the file is called."""
    path = write('\ufeff\r\n  {"tileId":"a","path":"b"}\r\n\n{"tileId":"c","path":"d"}', name)
    assert brief(path) == [(2, "a", "b"), (4, "c", "d")]


def test_lines_are_counted_as_an_editor_counts_them(write: Write) -> None:
    """Blank lines and quoted line ends count; a row is where it begins."""
    text = 'tileId,path,alt\n\na,1.jpg,"two\nlines"\n,,\n  \nb,2.jpg,"three\r\n\r\nlines"\nc,3.jpg,\n'
    path = write(text)
    assert brief(path) == [(3, "a", "1.jpg"), (7, "b", "2.jpg"), (10, "c", "3.jpg")]
    assert [row.extra["alt"] for row in read(path)] == ["two\nlines", "three\r\n\r\nlines", ""]


def test_blank_lines_may_come_before_the_header(write: Write) -> None:
    """The header is the first line that says something, and is not taken for a row."""
    assert brief(write("\n,,\n\ntileId,path\na,b\n")) == [(5, "a", "b")]


def test_ids_and_names_are_opaque(write: Write, tmp_path: Path) -> None:
    """Slashes, signs, scripts, quotes and commas arrive as they are; an absolute path stays where it is."""
    tile = 'gallery/summer 2026?a=1&b=%2B+"ü茶'
    path = write(f'tileId,path\n"{tile.replace(chr(34), chr(34) * 2)}","/pictures/a, ""b"" 茶.jpg"\n')
    [row] = read(path)
    assert isinstance(row, Row)
    assert row.tile_id == tile
    assert row.path == Path('/pictures/a, "b" 茶.jpg')


def test_relative_paths_are_relative_to_the_manifest(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the place that tileferry is started from, and absolute, so that a file has one name."""
    write("tileId,path\na,images/b.jpg\n")
    monkeypatch.chdir("/")
    relative = Path(os.path.relpath(tmp_path / "shop.csv"))
    [row] = read(relative)
    assert isinstance(row, Row)
    assert row.path == tmp_path / "images/b.jpg"


def test_a_name_that_is_not_utf8_is_kept(write: Write, tmp_path: Path) -> None:
    """On many systems any bytes are a file name: the file is found."""
    path = write(b"tileId,path\na,caf\xe9.jpg\n")
    [row] = read(path)
    assert isinstance(row, Row)
    assert os.fsencode(row.path) == os.fsencode(tmp_path) + b"/caf\xe9.jpg"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (",b.jpg,x", "the tileId is empty; give the id of the tile that the picture belongs to"),
        ("  ,b.jpg,x", "the tileId is empty; give the id of the tile that the picture belongs to"),
        ("a,,x", "the path is empty; give the picture's file"),
        ("a, \t,x", "the path is empty; give the picture's file"),
        (
            "a",
            "there are too few fields: 1 instead of 3 (tileId, path, alt); a field that holds",
        ),
        ("a,b.jpg", "there are too few fields: 2 instead of 3"),
        ("a,b.jpg,x,y", "there are too many fields: 4 instead of 3"),
        ("a,b.jpg,x,,,y,", "there are too many fields: 6 instead of 3"),
        ("a\0,b.jpg,x", "the tileId holds a NUL character; was the file damaged?"),
        ("a,b\0.jpg,x", "the path holds a NUL character; was the file damaged?"),
        (b"caf\xe9,b.jpg,x", "the tileId is not proper UTF-8; save the manifest as UTF-8"),
    ],
)
def test_a_bad_row_is_told_and_the_others_go_on(write: Write, text: str | bytes, told: str) -> None:
    """Each kind of bad row names file and line and says what to do."""
    line = text.encode() if isinstance(text, str) else text
    path = write(b"tileId,path,alt\ngood,1.jpg,x\n" + line + b"\ngood,2.jpg,x\n")
    before, bad, after = read(path)
    assert isinstance(before, Row)
    assert isinstance(bad, BadRow)
    assert isinstance(after, Row)
    assert (bad.line, after.line) == (3, 4)
    assert bad.problem.startswith(f"shop.csv, line 3: {told}")


def test_a_bad_row_keeps_what_it_has(write: Write) -> None:
    """Its tile, path and further cells stand in the results."""
    [bad] = read(write("tileId,path,alt\n,images/b.jpg,a cup\n"))
    assert (bad.tile_id, bad.source, bad.extra) == ("", "images/b.jpg", {"alt": "a cup"})


def test_empty_fields_at_the_end_are_forgiven(write: Write) -> None:
    """Spreadsheets like to add commas."""
    assert brief(write("tileId,path\na,b.jpg,, ,\n")) == [(2, "a", "b.jpg")]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[1, 2]",
        b'"text"',
        b"null",
        b'{"tileId": "a", "path": "b"',
        b'{"tileId": "a", "path": "b"} {"tileId": "c", "path": "d"}',
        b'{"tileId": "caf\xe9", "path": "b"}',
        b'{"tileId": "\\ud800", "path": "b"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"a,b.jpg\x1b[2J",
    ],
    ids=range(10),
)
def test_a_line_that_is_no_json_object_is_a_bad_row(write: Write, line: bytes) -> None:
    """It is told with its line, and what it looks like, escaped and short; the others go on."""
    good = b'{"tileId": "a", "path": "b"}\n'
    first, bad, last = read(write(good + line + b"\n" + good, "shop.jsonl"))
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert bad.problem.startswith("shop.jsonl, line 2: this line is not a JSON object: ")
    assert bad.problem.isprintable()
    assert len(bad.problem) < 400


def test_deep_json_is_a_row_or_a_bad_row(write: Write) -> None:
    """However deep a value nests, the line is no reason to stop; also where reading it just works."""
    good = '{"tileId":"a","path":"b"}\n'
    deep = "".join(
        '{"tileId":"a","path":"b","x":' + "[" * depth + "]" * depth + "}\n" for depth in range(800, 1010)
    )
    rows = read(write(good + deep))
    assert len(rows) == 211
    assert {type(row) for row in rows} == {Row, BadRow}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"path": "b"}', "the tileId is empty"),
        ('{"tileId": "a"}', "the path is empty"),
        ('{"tileId": null, "path": "b"}', "the tileId is empty"),
        ('{"tileId": "a", "path": " "}', "the path is empty"),
        ('{"tileId": "a\\u0000", "path": "b"}', "the tileId holds a NUL character"),
    ],
)
def test_json_rows_that_lack_something(write: Write, line: str, told: str) -> None:
    """The same sentences as for CSV."""
    assert problem(write(line)).startswith(told)


@pytest.mark.parametrize("number", ["17", "1.10", "1e400", "-0", "123456789012345678901234567890"])
def test_numbers_are_carried_as_they_are_written(write: Write, number: str) -> None:
    """An id that is written as a number is not rounded, shortened or refused."""
    [row] = read(write(f'{{"tileId": {number}, "path": "b", "price": {number}}}'))
    assert isinstance(row, Row)
    assert (row.tile_id, row.extra) == (number, {"price": number})


def test_a_header_alone_is_fine(write: Write) -> None:
    """A manifest may have nothing to do tonight."""
    assert read(write("tileId,path\n")) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty; expected a header line with the columns tileId and path"),
        (b"\xef\xbb\xbf\r\n \n", "is empty; expected a header line"),
        (b",,\n,\n", "holds blank lines only; expected a header line"),
        (
            b"tile_id,path\n",
            "line 1: there is no column tileId. Found: tile_id, path. Is tile_id meant to be tileId?",
        ),
        (b"\n\ntileId,pfad,alt\n", "line 3: there is no column path. Found: tileId, pfad, alt."),
        (b"tileId,paths\n", "Is paths meant to be path?"),
        (b"hero-1,images/a.jpg\n", "Name the columns tileId and path in the first line."),
        (b"tileId,path,TileID\n", "the column tileId is there twice. Found: tileId, path, TileID."),
        (b"tile\x1b[31m,,path\n", 'Found: tile\\x1b[31m, "", path.'),
        (
            b'tileId,"path\na,b\n',
            "line 1: a quote is opened here and never closed. Mend that line; nothing beyond it could be read.",
        ),
        (b'\n"tileId"x,path\n', "line 2: a quoted field does not end where its quote ends."),
        (b'{"tile": "a", "file": "b"}\n', "line 1: there are no keys tileId and path. Found: tile, file."),
        (b"{}\n", "there are no keys tileId and path. Found: none."),
        (b"{\n{\n", "holds no JSON object; each line must look like"),
        (b"{" + b" " * LONGEST_ROW, "line 1: this line is longer than 1048576 characters"),
        (b"PK\x03\x04....", "is an Excel or OpenDocument file; save it as CSV"),
        (b"\xd0\xcf\x11\xe0....", "is an old Excel file"),
        (b"\x1f\x8b....", "is compressed (gzip); unpack it first"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"SQLite format 3\0....", "is a database"),
        (b"\xff\xd8\xff....", "is a picture; name the table that lists the pictures"),
        (b"\x89PNG....", "is a picture"),
        ("tileId,path\n".encode("utf-16"), "is in UTF-16; save it as CSV UTF-8"),
        ("tileId,path\n".encode("utf-16-le"), "is no text file; expected CSV or JSON lines in UTF-8"),
        (b"\x7fELF\x02\x01\0\0", "is no text file"),
    ],
)
def test_an_unusable_manifest_is_told(write: Write, content: bytes, told: str) -> None:
    """The sentence names the file, shows what was found and says what is expected."""
    assert told in refusal(write(content))
    assert refusal(write(content)).isprintable()


def test_a_json_name_promises_json(write: Write) -> None:
    """CSV in a file that is called .jsonl is told as what it is not."""
    for name in ("shop.jsonl", "shop.NDJSON"):
        assert "holds no JSON object" in refusal(write("tileId,path\na,b\n", name))


def test_a_bad_row_cannot_drive_the_terminal(write: Write) -> None:
    """Neither the manifest's own name nor a column's reaches a message with its control characters."""
    [bad] = read(write("tileId,path,\x1b[31malt\na\n", "sh\x1b[2Jop.csv"))
    assert isinstance(bad, BadRow)
    assert bad.problem.startswith("sh\\x1b[2Jop.csv, line 2: there are too few fields: 1 instead of 3")
    assert "\\x1b[31malt" in bad.problem
    assert bad.problem.isprintable()


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, a pipe, a device, forbidden, broken: a sentence each, and nothing is waited for."""
    assert refusal(tmp_path / "none.csv").endswith("none.csv does not exist.")
    assert "is a folder; name the manifest in it" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file; save the manifest to a file first" in refusal(tmp_path / "pipe")
    assert "is no regular file" in refusal(Path("/dev/zero"))
    (tmp_path / "shop.csv").write_text("tileId,path\n")
    for error, told in [
        (PermissionError(13, "Permission denied"), "may not be read: permission denied"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
    ]:

        def refuse(path: Path, *_: object, error: OSError = error, **__: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            assert told in refusal(tmp_path / "shop.csv")


def test_a_manifest_that_vanishes_is_told(write: Write) -> None:
    """Between the head and the rows the file may go away."""
    path = write("tileId,path\na,b\n")
    manifest = open_manifest(path)
    path.unlink()
    with pytest.raises(ManifestError, match="does not exist"):
        list(manifest.rows())


def test_a_manifest_that_vanishes_while_it_is_opened_is_told(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its beginning and the header, too."""
    path = write("tileId,path\na,b\n")
    monkeypatch.setattr("tileferry.manifest._check_text", lambda path, head: path.unlink())
    with pytest.raises(ManifestError, match="does not exist"):
        open_manifest(path)


@pytest.mark.parametrize("content", ["path,tileId\nb.jpg,a\n", "tileId,path,alt\na,b.jpg,x\n", ""])
def test_a_header_that_changes_ends_the_reading(write: Write, content: str) -> None:
    """The columns that were checked are the columns that are read: no picture goes to another tile."""
    manifest = open_manifest(write("tileId,path\na,b.jpg\n"))
    write(content)
    tiles, told = until_error(manifest)
    assert tiles == []
    assert "changed while it was being read; run the same command again" in told


def until_error(manifest: Manifest) -> tuple[list[str], str]:
    """The tiles read before the error, and the error."""
    tiles: list[str] = []
    with pytest.raises(ManifestError) as caught:
        tiles.extend(row.tile_id for row in manifest.rows())
    return tiles, str(caught.value)


@pytest.mark.parametrize("following", [1, 200_000], ids=["short", "long"])
def test_a_quote_that_is_never_closed_names_its_line(write: Write, following: int) -> None:
    """The error points to where the quote opened, not to where reading ended; the rows before are good."""
    path = write('tileId,path\na,"1\n1.jpg"\nb,"2.jpg\n' + "c,3.jpg\n" * following)
    tiles, told = until_error(open_manifest(path))
    assert tiles == ["a"]
    assert f"{path}, line 4: " in told
    assert ("is a quote opened here and never closed?" if following > 1 else "a quote is opened here and") in told


def test_text_behind_a_quote_names_its_line(write: Write) -> None:
    """A quote that closes too early shifts everything behind it, so reading ends there."""
    tiles, told = until_error(open_manifest(write('tileId,path\na,1.jpg\nb,"2".jpg\nc,3.jpg\n')))
    assert tiles == ["a"]
    assert "line 3: a quoted field does not end where its quote ends." in told


@pytest.mark.parametrize("name", ["shop.csv", "shop.jsonl"])
def test_an_endless_line_takes_bounded_memory(write: Write, name: str) -> None:
    """A line of many megabytes ends in an error that names it, and is not read to its end."""
    first = "tileId,path\n" if name.endswith("csv") else '{"tileId":"a","path":"b"}\n'
    path = write(first, name)
    with path.open("ab") as file:
        file.truncate(200 * 1024 * 1024)  # a hole: NUL characters that take no space on disk
    manifest = open_manifest(path)
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match="line 2: "):
            list(manifest.rows())
        assert tracemalloc.get_traced_memory()[1] < 20 * LONGEST_ROW
    finally:
        tracemalloc.stop()


def test_a_row_of_endless_cells_takes_bounded_memory(write: Write) -> None:
    """However short its lines and cells are, a row ends somewhere."""
    tiles, told = until_error(open_manifest(write("tileId,path\na,b\nc,d" + ',"x\n"' * (LONGEST_ROW // 4))))
    assert tiles == ["a"]
    assert "line 3: this row is far too long" in told


def test_many_rows_take_flat_memory(write: Write) -> None:
    """Rows are made as they are asked for: ten times as many take no more memory."""
    line = f"tile,{'x' * 200}.jpg\n"

    def peak(rows: int) -> int:
        manifest = open_manifest(write("tileId,path\n" + line * rows))
        tracemalloc.start()
        try:
            assert sum(1 for _ in manifest.rows()) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(5000) < peak(500) + 100_000


def test_rows_can_be_read_again_and_left_early(write: Write) -> None:
    """Each reading begins anew, and closing one closes the file."""
    manifest = open_manifest(write("tileId,path\na,1\nb,2\n"))
    rows = manifest.rows()
    assert next(rows).tile_id == "a"
    del rows  # an open file would be a warning, and a warning is an error here
    assert [row.tile_id for row in manifest.rows()] == ["a", "b"]


def test_the_sample_shop_is_in_order() -> None:
    """Both manifests of the sample shop give the same rows, and every picture is fit, of all four kinds."""
    table, lines = (read(SAMPLES / f"small_shop.{form}") for form in ("csv", "jsonl"))
    facts = [[(row.tile_id, row.source, row.extra) for row in rows] for rows in (table, lines)]
    assert facts[0] == facts[1]
    examined = [examine(row.path).image for row in table if isinstance(row, Row)]
    assert len(examined) == len(table)
    assert {image.kind for image in examined} == set(ImageKind)
    pictures = list((SAMPLES / "images").iterdir())
    assert {image.path.name for image in examined} == {path.name for path in pictures}
    assert sum(path.stat().st_size for path in pictures) < 2_000_000


def test_the_samples_bad_rows_are_bad() -> None:
    """The sample of bad rows has its first and last row good, and between them each its own kind of trouble."""
    rows = read(SAMPLES / "every_bad_row.csv")
    assert [row.line for row in rows if isinstance(row, BadRow)] == [3, 4, 5, 6]
    found = []
    for row in rows:
        if isinstance(row, Row):
            try:
                found.append((row.line, examine(row.path).image.kind.name))
            except ImageError as exc:
                found.append((row.line, exc.reason))
    assert found == [
        (2, "JPEG"),
        (7, "file is missing"),
        (8, "not a file"),
        (9, "file is empty"),
        (10, "not an image"),
        (11, "not an image"),
        (12, "GIF"),
    ]


def test_written_by_pythons_own_writers(write: Write, tmp_path: Path) -> None:
    """Awkward cells survive a round trip through the csv and json modules."""
    cells = [("a,b", 'c"d.jpg', "e\nf"), ("ü 茶", "g\\h.png", "'"), ("+1", "=x", "#")]
    table = tmp_path / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("tileId", "path", "alt"), *cells])
    lines = write(
        "".join(json.dumps(dict(zip(("tileId", "path", "alt"), row, strict=True))) + "\n" for row in cells)
    )
    for path in (table, lines):
        assert [(row.tile_id, row.source, row.extra["alt"]) for row in read(path)] == cells
