"""The body of one attempt: its bytes, its length, and what it tells afterwards."""

from __future__ import annotations

import asyncio
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileferry.errors import ImageChangedError
from tileferry.model import ImageKind
from tileferry.multipart import MAX_FILENAME_BYTES, Body, encoded_filename

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "0123456789abcdef" * 2
BOUNDARY = f"tileferry-{TOKEN}"


@pytest.fixture
def _fixed_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundaries are no longer by chance."""
    monkeypatch.setattr("tileferry.multipart.secrets.token_hex", lambda size: TOKEN[: size * 2])


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A picture as it comes from disk."""
    for part in parts:
        yield part


async def vanishing(part: bytes) -> AsyncIterator[bytes]:
    """A picture that changes after its first chunk."""
    yield part
    raise ImageChangedError("a.png changed while it was being uploaded", reason="file changed")


def body_of(
    content: bytes | AsyncIterator[bytes], *, size: int, filename: str = "a.png", field_name: str = "file"
) -> Body:
    """A body around a PNG's content."""
    return Body(field_name=field_name, filename=filename, kind=ImageKind.PNG, size=size, content=content)


async def sent_by(body: Body) -> bytes:
    """Everything that the HTTP client would send."""
    return b"".join([part async for part in body.stream()])


EXPECTED = (
    b"--tileferry-0123456789abcdef0123456789abcdef\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n"
    b"\r\n"
    b"\x89PNG\r\n--\0data"
    b"\r\n--tileferry-0123456789abcdef0123456789abcdef--\r\n"
)


@pytest.mark.usefixtures("_fixed_boundary")
async def test_bytes_on_the_wire() -> None:
    """A picture at hand is framed byte for byte as one file part, whatever bytes it holds."""
    body = body_of(b"\x89PNG\r\n--\0data", size=13)
    assert await sent_by(body) == EXPECTED
    assert body.content_type == f"multipart/form-data; boundary={BOUNDARY}"
    assert body.length == len(EXPECTED)


@pytest.mark.usefixtures("_fixed_boundary")
async def test_stream_on_the_wire() -> None:
    """A streamed picture makes the very same bytes and the same length, however it is cut."""
    body = body_of(chunks(b"\x89PNG", b"", b"\r\n--\0", b"data"), size=13)
    assert await sent_by(body) == EXPECTED
    assert body.length == len(EXPECTED)


@pytest.mark.usefixtures("_fixed_boundary")
@pytest.mark.parametrize("kind", ImageKind)
async def test_part_names_its_kind_and_field(kind: ImageKind) -> None:
    """The part carries the picture's media type and the field name that was asked for."""
    body = Body(field_name="photo_1", filename="a", kind=kind, size=1, content=b"x")
    sent = await sent_by(body)
    assert f"\r\nContent-Type: {kind.value}\r\n\r\nx\r\n".encode() in sent
    assert b'; name="photo_1"; filename="a"\r\n' in sent


def test_each_body_has_a_boundary_of_its_own() -> None:
    """No two bodies share a boundary, so that no picture can hold the one that frames it."""
    types = {body_of(b"x", size=1).content_type for _ in range(20)}
    assert len(types) == 20


@given(st.lists(st.binary(max_size=40), max_size=6), st.text(max_size=300), st.booleans())
def test_length_is_true_and_the_form_can_be_read(parts: list[bytes], filename: str, streamed: bool) -> None:
    """For any picture and any name the length is exact and another parser finds the same bytes and name."""
    content = b"".join(parts)
    body = body_of(chunks(*parts) if streamed else content, size=len(content), filename=filename)
    sent = asyncio.run(sent_by(body))
    assert len(sent) == body.length
    head, _, rest = sent.partition(b"\r\n\r\n")
    assert len(head.splitlines()) == 3
    assert rest.startswith(content + b"\r\n--tileferry-")
    assert rest.endswith(b"--\r\n")


async def test_form_as_a_mail_parser_reads_it() -> None:
    """The form is well-formed by the rules of MIME: one part with field, filename, type and content."""
    body = body_of(b"\x89PNG\xff\x00", size=6, filename="tile 1.png")
    form = BytesParser(policy=HTTP).parsebytes(
        f"Content-Type: {body.content_type}\r\n\r\n".encode() + await sent_by(body)
    )
    (part,) = form.get_payload()
    assert part.get_content_type() == "image/png"
    assert part.get_filename() == "tile 1.png"
    assert part.get_param("name", header="content-disposition") == "file"
    assert part.get_payload(decode=True) == b"\x89PNG\xff\x00"


def test_nothing_is_handed_over_before_it_is_asked_for() -> None:
    """A body that no connection has taken anything of says so."""
    body = body_of(b"x", size=1)
    assert not body.handed_over
    assert body.failure is None


async def test_bytes_count_as_handed_over_at_once() -> None:
    """Bytes are given to the connection as a whole, so from then on all of them may arrive."""
    body = body_of(b"x", size=1)
    stream = body.stream()
    await anext(stream)
    assert body.handed_over
    assert [part async for part in stream] == []


async def test_stream_is_handed_over_with_its_last_byte() -> None:
    """Only when the connection has taken the last chunk may the whole picture arrive."""
    body = body_of(chunks(b"a", b"b"), size=2)
    seen = [(part, body.handed_over) async for part in body.stream()]
    assert [handed_over for _, handed_over in seen] == [False, False, False, True]
    assert [part for part, _ in seen][1:3] == [b"a", b"b"]


async def test_stream_that_is_given_up_is_not_handed_over() -> None:
    """A connection that is lost in the middle has not taken the whole picture, and no failure of ours is told."""
    body = body_of(chunks(b"a", b"b"), size=2)
    payload = body.stream()
    await anext(payload)
    await anext(payload)
    await payload.aclose()
    assert not body.handed_over
    assert body.failure is None


async def test_failure_of_the_picture_is_kept_and_raised() -> None:
    """When the picture cannot be read to its end, the reason is kept, for the HTTP client hides it."""
    body = body_of(vanishing(b"a"), size=2)
    with pytest.raises(ImageChangedError) as caught:
        await sent_by(body)
    assert body.failure is caught.value
    assert not body.handed_over


FILENAMES: list[tuple[str, str]] = [
    ("a.png", "a.png"),
    ('say "cheese".png', "say %22cheese%22.png"),
    ("a\r\nX-Evil: 1\r\n\r\n.png", "a%0D%0AX-Evil: 1%0D%0A%0D%0A.png"),
    ("a\0b.png", "a%00b.png"),
    ("C:\\pictures\\a.png", "a.png"),
    ("\\\\server\\share\\a.png", "a.png"),
    ("/etc/passwd", "passwd"),
    ("../../a.png", "a.png"),
    ("100%.png", "100%.png"),
    ("it's; a=b.png", "it's; a=b.png"),
    ("товар.png", "товар.png"),
    ("图片.webp", "图片.webp"),
    ("صورة.gif", "صورة.gif"),
    ("रंग.jpg", "रंग.jpg"),
    ("👩‍🎨.png", "👩‍🎨.png"),
    ("e\u0301.png", "e\u0301.png"),
    ("bad\udcff.png", "bad?.png"),
    ("\ud800.png", "?.png"),
    ("", "image"),
    ("folder/", "image"),
    ("\\", "image"),
]


@pytest.mark.parametrize(("filename", "encoded"), FILENAMES)
def test_filename(filename: str, encoded: str) -> None:
    """A filename survives as browsers send it: no directory, nothing that ends its quotes or its line."""
    assert encoded_filename(filename) == encoded


@pytest.mark.parametrize(
    ("filename", "encoded"),
    [
        ("x" * 1000 + ".jpeg", "x" * 195 + ".jpeg"),
        ("x" * 196 + ".png", "x" * 196 + ".png"),
        ("x" * 197 + ".png", "x" * 196 + ".png"),
        ("é" * 1000 + ".jpeg", "é" * 97 + ".jpeg"),
        ("🎨" * 1000, "🎨" * 50),
        ("x" * 1000 + "." + "y" * 1000, "x" * 200),
        ("." + "x" * 1000, "." + "x" * 199),
        ("x" * 1000 + ".ending_of_16_ch", "x" * 184 + ".ending_of_16_ch"),
    ],
)
def test_long_filename_keeps_its_ending(filename: str, encoded: str) -> None:
    """A name that is too long loses its middle, never half a character, and keeps an ending that is one."""
    assert encoded_filename(filename) == encoded


@given(st.text(st.characters(), max_size=600))
def test_any_filename_fits_into_its_quotes(filename: str) -> None:
    """No name at all ends its quotes, breaks its line, is empty, or cannot be encoded."""
    encoded = encoded_filename(filename)
    assert not set(encoded) & set('"\r\n\0/\\')
    assert encoded
    encoded.encode("utf-8")


@pytest.mark.parametrize("character", ['"', "\r", "\n", "\0"])
def test_filename_is_no_longer_than_promised(character: str) -> None:
    """The bound holds for what is sent, percent-codes included: hosts store the name as it was sent."""
    assert len(encoded_filename(character * 300 + ".png").encode()) <= MAX_FILENAME_BYTES
