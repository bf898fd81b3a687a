"""Real pictures made to measure: every kind, any size in bytes, the same ones every time.

Tests and benchmarks call `make`. `python -m benchmarks.pictures` draws the pictures of `sample_manifests` anew.
"""

from __future__ import annotations

import itertools
import math
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tileferry.model import ImageKind

EXTENSIONS = {ImageKind.JPEG: "jpg", ImageKind.PNG: "png", ImageKind.GIF: "gif", ImageKind.WEBP: "webp"}

_LONGEST_SEGMENT = 2 + 0xFFFF  # a JPEG marker and all that its 16-bit length can count
_LONGEST_BLOCK = 1 + 0xFF  # a GIF sub-block with its 8-bit length


def make(
    kind: ImageKind, *, width: int = 64, height: int = 64, seed: int = 0, approx_bytes: int | None = None
) -> bytes:
    """A picture that every decoder opens; another `seed` gives another picture, and other bytes throughout.

    The content is exactly `approx_bytes` long (WebP: the next even number), filled up in a way that its format
    allows. Where that is too little for the picture, it is as short as it can be: 500 to 1500 bytes at the default
    width and height.
    """
    chance = random.Random(seed)
    bare = _bare(kind, width, height, chance)
    note = f"tileferry picture {seed} ".encode()
    room = max((approx_bytes or 0) - len(bare), 12 + len(note))

    def filling(length: int) -> bytes:
        return note + chance.randbytes(length - len(note))

    def pieces(room: int, framing: int, longest: int) -> list[bytes]:
        """Filling that takes `room` bytes with `framing` bytes around each piece, `longest` at most each."""
        count = -(-room // longest)
        content = filling(room - framing * count)
        ends = [len(content) * number // count for number in range(count + 1)]
        return [content[start:end] for start, end in itertools.pairwise(ends)]

    match kind:
        case ImageKind.JPEG:
            place = 2 + 2 + int.from_bytes(bare[4:6], "big")  # behind JFIF's own segment, which must come first
            comments = pieces(room, 4, _LONGEST_SEGMENT)
            added = b"".join(b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment for comment in comments)
            return bare[:place] + added + bare[place:]
        case ImageKind.PNG:
            content = b"tiFy" + filling(room - 12)
            chunk = struct.pack(">I", room - 12) + content + struct.pack(">I", zlib.crc32(content))
            return bare[:-12] + chunk + bare[-12:]  # before IEND
        case ImageKind.GIF:
            blocks = b"".join(bytes([len(block)]) + block for block in pieces(room - 3, 1, _LONGEST_BLOCK))
            return bare[:-1] + b"\x21\xfe" + blocks + b"\0" + bare[-1:]  # before the trailer
        case ImageKind.WEBP:
            return _riff(bare[12:] + _chunk(b"TIFY", filling(room - 8 + room % 2)))


def _bare(kind: ImageKind, width: int, height: int, chance: random.Random) -> bytes:
    """A mosaic of colors, as small as it gets."""
    mosaic = Image.frombytes("RGB", (8, 8), chance.randbytes(8 * 8 * 3))
    picture = mosaic.resize((width, height), Image.Resampling.NEAREST)
    file = BytesIO()
    match kind:
        case ImageKind.JPEG:
            picture.save(file, "JPEG", quality=75)
        case ImageKind.PNG:
            picture.save(file, "PNG")
        case ImageKind.GIF:
            picture.quantize(64).save(file, "GIF")
            return b"GIF89a" + file.getvalue()[6:]  # the older version knows no comments
        case ImageKind.WEBP:
            picture.save(file, "WEBP", quality=75, method=0)
            # Chunks of one's own are allowed in the extended format only, which begins with a chunk of its own.
            size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
            return _riff(_chunk(b"VP8X", bytes(4) + size) + file.getvalue()[12:])
    return file.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


# The sample shop: drawn at double size and reduced, which smooths the edges. Its manifests, and the broken files
# that one of them names, are written by hand; a picture above 20 MB is left to the tests, it would weigh too much.

Color = tuple[int, int, int]

_BLUE, _RED, _GREEN, _AMBER = (52, 101, 164), (178, 58, 58), (66, 122, 74), (214, 148, 48)
_CREAM, _INK, _CLAY = (250, 243, 228), (58, 46, 40), (196, 164, 132)


def sample_pictures() -> Iterator[tuple[str, Image.Image, list[Image.Image]]]:
    """Name, picture and further frames of each picture in the sample shop."""
    yield "hero-harvest.jpg", _hills("Spring harvest", (255, 214, 165), _GREEN), []
    yield "hero-evening.webp", _hills("Evening blends", (120, 110, 170), (40, 70, 80)), []
    yield "teapot-blue.jpg", _teapot(_BLUE, "Blue teapot"), []
    yield "teapot-red.jpg", _teapot(_RED, "Red teapot"), []
    yield "teapot-green.webp", _teapot(_GREEN, "Green teapot"), []
    yield "tin-assam.png", _tin(_RED, "Assam"), []
    yield "tin-sencha.png", _tin(_GREEN, "Sencha"), []
    yield "tin-earl-grey.jpg", _tin(_BLUE, "Earl Grey"), []
    yield "tin-rooibos.webp", _tin(_AMBER, "Rooibos"), []
    first, *further = [_cup(frame / 8) for frame in range(8)]
    yield "cup-steaming.gif", first, further
    yield "logo.png", _leaf(400), []
    yield "mint leaf.webp", _leaf(160), []


def write_samples(folder: Path) -> None:
    """Draw the sample shop's pictures into `folder`. The same Pillow draws the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture, further in sample_pictures():
        path = folder / name
        if further:
            picture.save(path, save_all=True, append_images=further, duration=120, loop=0)
        else:
            picture.save(path, quality=82)
        print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1024:.0f} KB")


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(int(part * factor), 255) for part in color)
    return red, green, blue


def _gradient(width: int, height: int, top: Color, bottom: Color) -> Image.Image:
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), bottom)
    # The outer quarters of the stretched column would be flat.
    return column.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))


def _caption(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, color: Color = _INK
) -> None:
    draw.text(place, text, fill=color, font=ImageFont.load_default(size), anchor="mm")


def _hills(caption: str, sky: Color, grass: Color) -> Image.Image:
    """Rows of tea bushes under a low sun."""
    picture = _gradient(2400, 1200, sky, _CREAM)
    draw = ImageDraw.Draw(picture)
    draw.circle((1800, 420), 150, fill=(255, 236, 190))
    for row in range(6):
        shade = _shade(grass, 1.25 - row * 0.1)
        middle, top = 300 + row * 380 % 1900, 640 + row * 90
        draw.ellipse((middle - 1700, top, middle + 1700, top + 1500), fill=shade)
        for bush in range(-1600, 1600, 130):
            drop = 750 - 750 * (1 - (bush / 1700) ** 2) ** 0.5
            draw.circle((middle + bush, top + drop + 12), 34, fill=_shade(shade, 0.65))
    _caption(draw, (700, 300), caption, 150)
    return picture.reduce(2)


def _teapot(color: Color, caption: str) -> Image.Image:
    picture = _gradient(1400, 1400, _CREAM, _CLAY)
    draw = ImageDraw.Draw(picture)
    dark = _shade(color, 0.65)
    draw.ellipse((260, 960, 1140, 1090), fill=(150, 122, 96))
    draw.polygon([(950, 800), (1090, 520), (1220, 470), (1180, 560), (1000, 900)], fill=dark)
    draw.ellipse((150, 540, 540, 900), outline=dark, width=60)
    draw.ellipse((340, 440, 1060, 1040), fill=color)
    draw.ellipse((460, 520, 600, 720), fill=_shade(color, 1.35))
    draw.chord((480, 370, 920, 610), 180, 360, fill=dark)
    draw.circle((700, 355), 48, fill=_AMBER)
    _caption(draw, (700, 1230), caption, 110)
    return picture.reduce(2)


def _tin(color: Color, caption: str) -> Image.Image:
    picture = Image.new("RGB", (1000, 1200), _CREAM)
    draw = ImageDraw.Draw(picture)
    picture.paste(
        _gradient(980, 560, _shade(color, 1.3), color).rotate(90, expand=True),
        (220, 140),
    )
    draw.rounded_rectangle((200, 100, 800, 240), 30, fill=_INK)
    draw.rounded_rectangle((300, 480, 700, 860), 24, fill=_CREAM)
    picture.paste(mark := _leaf(150), (425, 510), mark)
    _caption(draw, (500, 780), caption, 76)
    return picture.reduce(2)


def _cup(moment: float) -> Image.Image:
    """A cup of tea; `moment` from 0 to 1 moves its steam once."""
    picture = Image.new("RGB", (640, 640), _CREAM)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 520, 580, 620), fill=_CLAY)
    draw.ellipse((430, 340, 560, 480), outline=_BLUE, width=24)
    draw.chord((120, 120, 480, 580), 0, 180, fill=_BLUE)
    draw.ellipse((120, 300, 480, 400), fill=_AMBER, outline=_BLUE, width=12)
    for strand in (220, 300, 380):
        for step in range(40):
            sway = 18 * math.sin(step / 5 + strand + moment * math.tau)
            draw.circle((strand + sway, 290 - step * 6), 10 - step / 5, fill=(225, 214, 198))
    return picture.reduce(2).quantize(32)


def _leaf(side: int) -> Image.Image:
    """A tea leaf on nothing."""
    picture = Image.new("RGBA", (400, 400), (*_GREEN, 0))
    draw = ImageDraw.Draw(picture)
    edge = [(40 + 320 * step / 50, 110 * math.sin(math.pi * step / 50)) for step in range(51)]
    draw.polygon([(x, 200 - y) for x, y in edge] + [(x, 200 + y) for x, y in reversed(edge)], fill=_GREEN)
    draw.line((10, 200, 330, 200), fill=_CREAM, width=10)
    for x in range(100, 300, 50):
        for side_of in (-1, 1):
            draw.line((x, 200, x + 45, 200 + side_of * 60), fill=_CREAM, width=6)
    return picture.rotate(40, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    write_samples(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("sample_manifests/images"))
