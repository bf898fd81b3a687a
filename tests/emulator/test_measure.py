"""Kind and size of a picture, read from its header."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from emulator.customer import GIF, PNG
from tileferry.emulator.pictures import Picture, measure
from tileferry.model import ImageKind


def drawn(form: str, **options: object) -> bytes:
    """A picture of 37 by 21 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (37, 21), (200, 30, 30)).save(file, form, **options)
    return file.getvalue()


ICC = b"\xff\xe2" + (65_000).to_bytes(2, "big") + bytes(64_998)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (drawn("PNG"), ImageKind.PNG),
        (drawn("GIF"), ImageKind.GIF),
        (drawn("JPEG"), ImageKind.JPEG),
        (drawn("JPEG", progressive=True), ImageKind.JPEG),
        (b"\xff\xd8" + ICC * 3 + drawn("JPEG")[2:], ImageKind.JPEG),
        (b"\xff\xd8\xff\x01\xff\xff" + drawn("JPEG")[3:], ImageKind.JPEG),
        (drawn("WEBP"), ImageKind.WEBP),
        (drawn("WEBP", lossless=True), ImageKind.WEBP),
        (drawn("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), ImageKind.WEBP),
    ],
)
def test_a_picture_is_told_by_its_content(content: bytes, kind: ImageKind) -> None:
    """All four kinds in their flavors, and a size that stands behind a long color profile."""
    assert measure(io.BytesIO(content)) == Picture(kind, 37, 21)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a\x01",
        GIF.replace(b"\x04\x00", b"\x00\x00"),
        PNG[:20],
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x01",
        b"\xff\xd8\xff\xda\x00\x02\xff\xc0\x00\x08\x08\x00\x09\x00\x09\x00",
        b"\xff\xd8\xff\xe0\x00\x02junk",
        b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(20),
        b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(20),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00\x00\x00\x18ftypheic" + bytes(20),
    ],
)
def test_what_has_no_readable_header_is_no_picture(content: bytes) -> None:
    """Foreign kinds, broken headers and sizes of nothing are not taken for pictures."""
    assert measure(io.BytesIO(content)) is None
