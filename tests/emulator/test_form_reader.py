"""The strict form reader, alone: the same verdict however the body is cut."""

from __future__ import annotations

import pytest

from emulator.customer import BOUNDARY, GIF, form
from tileferry.emulator.multipart import FileReader, MultipartError, PartHead, boundary_of


def read(body: bytes, piece: int) -> tuple[PartHead, bytes]:
    """The form's head and file, fed in pieces of that size."""
    reader = FileReader(BOUNDARY.encode(), "file")
    content = b"".join(reader.feed(body[at : at + piece]) for at in range(0, len(body), piece))
    return reader.close(), content


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize(
    "content",
    [
        GIF,
        b"",
        b"\r\n",
        b"\r\n--",
        f"\r\n--{BOUNDARY[:-1]}".encode(),
        b"--frontier--",
        b"\r" * 40,
        b"\n--frontier",
    ],
)
def test_the_file_comes_out_as_it_went_in(content: bytes, piece: int) -> None:
    """Bytes that look like half a delimiter belong to the file, wherever the body is cut."""
    head, found = read(form(content), piece)
    assert found == content
    assert head == PartHead(name="file", filename="a.gif", media_type="image/gif")


@pytest.mark.parametrize("piece", [1, 10_000])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "before the file part"),
        (b"--frontier\n", "does not begin"),
        (b"preamble\r\n" + form(), "does not begin"),
        (form()[:40], "before the file part"),
        (form()[:-5], "final boundary"),
        (form()[:-1], "final boundary"),
        (form() + b"\r\n", "other than the final boundary"),
        (form()[:-4] + b"x", "other than the final boundary"),
        (form()[:-4] + b"\r\n" + form(), "more than one part"),
        (b"--frontier\r\nX: " + b"y" * 20_000, "no end"),
        (b"--frontier\r\nno header\r\n\r\n", "no header"),
        (form().replace(b"Content-Type", b"X: y\r\nx: z\r\nContent-Type"), "twice"),
        (form().replace(b"a.gif", b"\xff"), "not UTF-8"),
        (form().replace(b"form-data;", b"attachment;"), "not form-data"),
        (form().replace(b'name="file"', b"name=file"), "cannot be understood"),
        (form().replace(b'name="file"', b'name="file"; name="file"'), "cannot be understood"),
        (form().replace(b'"a.gif"', b'"a"b.gif"'), "cannot be understood"),
        (form().replace(b'"a.gif"', b'""'), "no filename"),
        (form().replace(b"filename=", b"filename*="), "filename\\*"),
        (form(name="image"), "name is not"),
        (form(media_type=""), "no Content-Type"),
    ],
)
def test_what_is_wrong_with_a_form_is_said(body: bytes, message: str, piece: int) -> None:
    """Each defect is found, and named, in one piece or byte by byte."""
    with pytest.raises(MultipartError, match=message):
        read(body, piece)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a%22b", 'a"b'),
        ("line%0D%0Abreak", "line\r\nbreak"),
        (r"a\"b\\c", 'a"b\\c'),
        (r"C:\new", r"C:\new"),
        ("50%25 %2B", "50%25 %2B"),
        ("图 é", "图 é"),
    ],
)
def test_a_filename_is_read_as_browsers_write_it(written: str, meant: str) -> None:
    """Only what browsers escape is unescaped; a backslash before a quote is taken, too."""
    head, _ = read(form(filename=written), 10_000)
    assert head.filename == meant


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data ; charset=utf-8; BOUNDARY="a b"', b"a b"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/form-data; boundary=" + "x" * 71, None),
        ('multipart/form-data; boundary="a "', None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=a,b c", None),
        ("multipart/form-data", None),
        ("multipart/related; boundary=abc", None),
    ],
)
def test_a_boundary_has_to_be_a_boundary(content_type: str, boundary: bytes | None) -> None:
    """Boundaries are taken as RFC 2046 has them and refused otherwise."""
    if boundary is None:
        with pytest.raises(MultipartError):
            boundary_of(content_type)
    else:
        assert boundary_of(content_type) == boundary
