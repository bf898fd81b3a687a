"""Which files are fit for upload, and that what is sent is what was examined."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pictures import make
from tileferry.errors import ImageChangedError, ImageError
from tileferry.images import (
    CHUNK_BYTES,
    Examined,
    Fingerprint,
    examine,
    fingerprint,
    looks_like,
    read_chunks,
    sniff,
)
from tileferry.model import MAX_IMAGE_BYTES, ImageKind, SourceImage

KINDS = list(ImageKind)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for one file, with a name that tells nothing."""
    return tmp_path / "picture"


def place(file: Path, content: bytes) -> SourceImage:
    """A picture on disk, examined."""
    file.write_bytes(content)
    return examine(file).image


async def receive(image: SourceImage) -> tuple[bytes, ImageChangedError | None]:
    """What is given out, and the error that ended it."""
    received = b""
    try:
        async for chunk in read_chunks(image):
            assert 0 < len(chunk) <= CHUNK_BYTES
            received += chunk
    except ImageChangedError as exc:
        return received, exc
    return received, None


def refusal(path: Path) -> ImageError:
    """Why the file is not fit."""
    with pytest.raises(ImageError) as caught:
        examine(path)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 2000, CHUNK_BYTES, CHUNK_BYTES + 2, 3 * CHUNK_BYTES, MAX_IMAGE_BYTES])
def test_every_kind_and_size_is_examined(file: Path, kind: ImageKind, size: int | None) -> None:
    """Kind, size, digest and time are right up to the very limit; only what fits one chunk is kept in memory."""
    content = make(kind, approx_bytes=size)
    file.write_bytes(content)
    assert size is None or len(content) == size
    image = SourceImage(
        path=file,
        kind=kind,
        size=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        mtime_ns=file.stat().st_mtime_ns,
    )
    assert examine(file) == Examined(image, content if len(content) <= CHUNK_BYTES else None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_of_the_tests_are_pictures(kind: ImageKind) -> None:
    """A decoder opens them, filled up or not; the same seed gives the same bytes, another one others."""
    for content in (make(kind, width=40, height=30), make(kind, width=40, height=30, approx_bytes=200_001)):
        with Image.open(BytesIO(content)) as picture:
            picture.load()
            assert (picture.get_format_mimetype(), picture.size) == (kind.value, (40, 30))
    assert make(kind) == make(kind)
    assert len({make(kind, seed=seed) for seed in range(50)}) == 50


def test_content_is_not_shown(file: Path) -> None:
    """The record of a picture stays short where it is printed."""
    file.write_bytes(make(ImageKind.PNG))
    assert "IHDR" not in repr(examine(file))


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_says_nothing(tmp_path: Path, kind: ImageKind) -> None:
    """The kind is told by content, whatever the extension pretends."""
    for extension in ("jpg", "PNG", "gif", "webp", "txt"):
        path = tmp_path / f"picture.{extension}"
        path.write_bytes(make(kind))
        assert examine(path).image.kind is kind


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_signature_is_no_picture(kind: ImageKind) -> None:
    """A file that ends within its signature is not taken for a picture."""
    head = make(kind)[:12]
    shortest = next(length for length in range(13) if sniff(head[:length]) is kind)
    assert shortest == {ImageKind.JPEG: 3, ImageKind.PNG: 8, ImageKind.GIF: 6, ImageKind.WEBP: 12}[kind]
    assert all(sniff(head[:length]) is None for length in range(shortest))


def test_gif_in_its_older_version_is_taken() -> None:
    """Both versions of GIF are GIF."""
    assert sniff(b"GIF87a...") is ImageKind.GIF
    assert sniff(b"GIF88a...") is None


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"II*\0\x08\0", "a TIFF picture"),
        (b"MM\0*\0\0", "a TIFF picture"),
        (b"BM\x8a\0\0\0", "a BMP picture"),
        (b"\0\0\x01\0\x01\0", "an icon"),
        (b"8BPS\0\x01", "a Photoshop document"),
        (b"\0\0\0\x18ftypheic\0\0", "a HEIC picture"),
        (b"\0\0\0\x20ftypavif\0\0", "an AVIF picture"),
        (b"\xef\xbb\xbf\r\n <!DocType HTML>", "a web page"),
        (b"<html><body>404", "a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing"),
        ("Grüße, 2 tins\t\r\n".encode(), "text"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "something unknown"),
        (b"\x1b[31mred", "something unknown"),
    ],
)
def test_what_is_no_picture_is_named(file: Path, head: bytes, words: str) -> None:
    """The sentence says what the file seems to be, and what would be taken."""
    assert words in looks_like(head)
    file.write_bytes(head)
    error = refusal(file)
    assert words in str(error)
    assert str(file) in str(error)
    assert "JPEG, PNG, GIF and WebP" in str(error)
    assert error.reason == "not an image"


def nothing(path: Path) -> None:
    """No file at all."""


def dangling(path: Path) -> None:
    """A link to a file that is not there."""
    path.symlink_to(path.parent / "gone")


def circular(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path)


def oversized(path: Path) -> None:
    """One byte too many, without the disk space; its beginning is a picture's."""
    path.write_bytes(make(ImageKind.JPEG))
    os.truncate(path, MAX_IMAGE_BYTES + 1)


@pytest.mark.parametrize(
    ("prepare", "words", "reason"),
    [
        (nothing, "does not exist", "file is missing"),
        (dangling, "is a link that leads nowhere", "file is missing"),
        (circular, "is a link that leads in a circle", "file is missing"),
        (Path.mkdir, "is a folder; name one picture in it", "not a file"),
        (os.mkfifo, "is not a regular file", "not a file"),
        (Path.touch, "is empty (0 bytes)", "file is empty"),
        (oversized, "is too large: 20.0 MB, and the API takes at most 20 MB", "file too large"),
    ],
)
def test_an_unfit_file_is_refused(file: Path, prepare: Callable[[Path], None], words: str, reason: str) -> None:
    """Whatever cannot be uploaded is told with its path and its reason, and never waited for."""
    prepare(file)
    for look in (examine, fingerprint):
        with pytest.raises(ImageError) as caught:
            look(file)
        assert str(caught.value).startswith(f"{file} {words}")
        assert caught.value.reason == reason


def test_a_socket_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is no picture, and is not opened as one."""
    monkeypatch.chdir(file.parent)  # its address must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(file.name)
        assert "is not a regular file" in str(refusal(file))


def test_a_device_is_refused() -> None:
    """An endless device is not read."""
    assert "is not a regular file" in str(refusal(Path("/dev/zero")))


def test_names_that_cannot_be(file: Path) -> None:
    """A name that no file can have is one row's problem."""
    assert "is no possible file name" in str(refusal(Path("a\0b")))
    assert "is longer than a file name can be" in str(refusal(file / ("x" * 5000)))
    file.write_bytes(b"x")
    assert "does not exist" in str(refusal(file / "below-a-file.jpg"))


def test_control_characters_in_a_name_are_escaped(tmp_path: Path) -> None:
    """A name cannot drive the terminal that shows it."""
    told = str(refusal(tmp_path / "\x1b[2J\u202egnp.exe"))
    assert "\\x1b[2J\\u202egnp.exe" in told
    assert told.isprintable()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "may not be read: permission denied"),
        (errno.EIO, f"cannot be read: {os.strerror(errno.EIO)}"),
    ],
)
def test_an_unreadable_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    """A file that exists but cannot be opened is told as such."""
    file.write_bytes(make(ImageKind.PNG))

    def refuse(path: str, flags: int) -> int:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "open", refuse)
    error = refusal(file)
    assert words in str(error)
    assert error.reason == "file is unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(file: Path) -> None:
    """The real thing, for those who are not root."""
    file.write_bytes(make(ImageKind.PNG))
    file.chmod(0)
    assert "permission denied" in str(refusal(file))


def test_a_link_to_a_picture_is_followed(file: Path) -> None:
    """Links to files are as good as files."""
    file.write_bytes(make(ImageKind.GIF))
    link = file.with_name("link.gif")
    link.symlink_to(file)
    assert examine(link).image.digest == examine(file).image.digest


def test_a_pipe_that_takes_the_files_place_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the opening a file may become a pipe, which nobody writes to."""
    file.write_bytes(make(ImageKind.PNG))
    genuine = os.open

    def swap(path: str, flags: int) -> int:
        file.unlink()
        os.mkfifo(file)
        return genuine(path, flags)

    monkeypatch.setattr(os, "open", swap)
    assert "is not a regular file" in str(refusal(file))


def test_fingerprint_follows_the_file(file: Path) -> None:
    """Size and time are the file's, and another time is another fingerprint."""
    file.write_bytes(make(ImageKind.PNG))
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    before = fingerprint(file)
    assert before == Fingerprint(file.stat().st_size, 1_700_000_000_123_456_789)
    os.utime(file, ns=(1, 1_700_000_000_123_456_790))
    assert fingerprint(file) != before


def disturb(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Run `act` with a running number before each look at an open file: 1 before the reading, 2 after it, …"""
    genuine = os.fstat
    looks = 0

    def look(descriptor: int) -> os.stat_result:
        nonlocal looks
        looks += 1
        act(looks)
        return genuine(descriptor)

    monkeypatch.setattr("tileferry.images.os.fstat", look)


def test_a_file_that_changes_once_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the content after the change, with its own digest and time."""
    file.write_bytes(make(ImageKind.PNG, seed=1))
    second = make(ImageKind.JPEG, seed=2, approx_bytes=CHUNK_BYTES + 1)

    def rewrite(look: int) -> None:
        if look == 2:
            file.write_bytes(second)
            os.utime(file, ns=(1, 1))

    disturb(monkeypatch, rewrite)
    assert examine(file).image == SourceImage(
        path=file,
        kind=ImageKind.JPEG,
        size=len(second),
        digest=hashlib.sha256(second).hexdigest(),
        mtime_ns=1,
    )


@pytest.mark.parametrize("size", [3000, CHUNK_BYTES * 2])
def test_a_file_that_never_rests_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A file that is still being written, of the same length or growing, is left for a later run."""
    file.write_bytes(make(ImageKind.PNG, approx_bytes=size))
    disturb(monkeypatch, lambda look: os.utime(file, ns=(look, look)))
    with pytest.raises(ImageChangedError, match="changed while"):
        examine(file)

    def grow(look: int) -> None:
        with file.open("ab") as end:
            end.write(bytes(CHUNK_BYTES))

    disturb(monkeypatch, grow)
    with pytest.raises(ImageChangedError, match="run the same command again"):
        examine(file)


class Counting:
    """In a digest's place, counts what is read."""

    def __init__(self) -> None:
        self.counted = 0

    def update(self, content: bytes) -> None:
        """So much more was read."""
        self.counted += len(content)

    def hexdigest(self) -> str:
        """Nobody looks at it."""
        return ""


def test_a_file_that_grows_while_it_is_read_is_not_read_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends soon after the size that the file had, although there is more by then."""
    file.write_bytes(make(ImageKind.PNG))
    genuine = os.fstat
    sizes: list[int] = []

    def look_then_grow(descriptor: int) -> os.stat_result:
        status = genuine(descriptor)
        sizes.append(status.st_size)
        os.truncate(file, status.st_size + 10 * CHUNK_BYTES)
        return status

    monkeypatch.setattr("tileferry.images.os.fstat", look_then_grow)
    digest = Counting()
    monkeypatch.setattr("tileferry.images.hashlib.sha256", lambda: digest)
    with pytest.raises(ImageChangedError):
        examine(file)
    assert digest.counted <= sizes[0] + sizes[2] + 2 * CHUNK_BYTES  # the looks before each of the two readings


@pytest.mark.parametrize(
    "size", [1200, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]
)
async def test_chunks_are_the_file(file: Path, size: int) -> None:
    """Together they are the content, and none is longer than stated."""
    content = make(ImageKind.JPEG, approx_bytes=size)
    assert await receive(place(file, content)) == (content, None)


def flip(file: Path, place: int) -> None:
    """Change one byte, and give the file its old time back."""
    times = file.stat()
    with file.open("r+b") as content:
        content.seek(place)
        byte = content.read(1)[0]
        content.seek(place)
        content.write(bytes([byte ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def shorten(file: Path) -> None:
    """Cut the last byte off."""
    os.truncate(file, file.stat().st_size - 1)


def lengthen(file: Path) -> None:
    """Add one byte."""
    os.truncate(file, file.stat().st_size + 1)


def lengthen_by_chunks(file: Path) -> None:
    """Add much more than a chunk."""
    os.truncate(file, file.stat().st_size + 5 * CHUNK_BYTES)


def replace_by_pipe(file: Path) -> None:
    """A pipe with no one at its other end."""
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: flip(file, 0),
        lambda file: flip(file, file.stat().st_size - 1),
        shorten,
        lengthen,
        lengthen_by_chunks,
        lambda file: os.truncate(file, 0),
        Path.unlink,
        replace_by_pipe,
    ],
    ids=["first byte", "last byte", "shorter", "longer", "much longer", "emptied", "gone", "pipe"],
)
@pytest.mark.parametrize("size", [1200, CHUNK_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
async def test_a_changed_file_is_never_given_out_whole(
    file: Path, change: Callable[[Path], None], size: int
) -> None:
    """What was examined and what is read differ: the body stays incomplete, and the error says why."""
    image = place(file, make(ImageKind.JPEG, approx_bytes=size))
    change(file)
    received, error = await receive(image)
    assert len(received) < size
    assert error is not None
    assert error.reason == "file changed"
    assert str(file) in str(error)


async def test_a_change_during_the_reading_is_noticed(file: Path) -> None:
    """The file may still change when a part of it is on its way."""
    chunks = read_chunks(place(file, make(ImageKind.PNG, approx_bytes=4 * CHUNK_BYTES)))
    await anext(chunks)
    flip(file, 3 * CHUNK_BYTES + 1)
    with pytest.raises(ImageChangedError):
        async for _ in chunks:
            pass


async def test_a_wrong_digest_is_never_completed(file: Path) -> None:
    """The size alone proves nothing."""
    received, error = await receive(replace(place(file, make(ImageKind.PNG)), digest="0" * 64))
    assert received == b""
    assert error is not None


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_refusals_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of bad rows do not use up the files that a process may have open.

    Folders are opened here as if each had taken a file's place at the last moment.
    """
    monkeypatch.setattr("tileferry.images.fingerprint", lambda path: None)
    before = open_files()
    for number in range(5):
        (tmp_path / f"{number}").mkdir()
        refusal(tmp_path / f"{number}")
        (tmp_path / f"{number}.txt").write_text("text")
        refusal(tmp_path / f"{number}.txt")
    assert open_files() == before
