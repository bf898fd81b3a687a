"""The shapes of what the API tells: results, tiles and pages (as documented or observed)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tileferry.emulator.store import BUCKET

if TYPE_CHECKING:
    from tileferry.emulator.shop import Shop
    from tileferry.emulator.store import Stored

HOME = "home"
"""The id of the only page."""

_SAMPLE_TILES = ("cover", "gallery", "about")

_RENDITIONS = {
    "original": None,
    "webp-200x200": (200, 200),
    "webp-2000x2000": (2000, 2000),
    "cropped-webp-100x200": (100, 200),
    "cropped-webp-1000x2000": (1000, 2000),
}


def result(stored: Stored, shape: Literal["map", "list"], *, ready: bool) -> dict[str, object]:
    """The upload result: with all renditions, or still without."""
    told: dict[str, object] = {
        "bucket": BUCKET,
        "borderInfo": {"homogeneity": True, "color": {"r": 255, "g": 255, "b": 255, "a": 1}},
    }
    if not ready:
        # Whether an unfinished `set` is missing or empty is unknown: images take turns.
        number = int(stored.slot.slot.partition("-")[0])
        return told if number % 2 else {**told, "set": {} if shape == "map" else []}
    renditions = {name: _rendition(stored, name) for name in _RENDITIONS}
    return {**told, "set": renditions if shape == "map" else list(renditions.values())}


def _rendition(stored: Stored, name: str) -> dict[str, object]:
    width, height = stored.fact.width, stored.fact.height
    box = _RENDITIONS[name]
    if box is not None and name.startswith("cropped"):
        width, height = min(width, box[0]), min(height, box[1])
    elif box is not None:
        share = min(1.0, box[0] / width, box[1] / height)
        width, height = max(1, round(width * share)), max(1, round(height * share))
    return {"url": f"{stored.slot.slot}/{name}", "width": width, "height": height}


def known_tiles(shop: Shop) -> list[str]:
    """The tiles that a listing shows: those of the settings, or else a few samples and all that were used."""
    if shop.settings.tiles is not None:
        return sorted(shop.settings.tiles)
    used = (slot.fact.tile for slot in shop.store.slots.values())
    return list(dict.fromkeys((*_SAMPLE_TILES, *used)))


def tile(tile_id: str, order: int = 0) -> dict[str, object]:
    """A tile; its content is left empty."""
    return {
        "id": tile_id,
        "type": "COVER" if tile_id == "cover" else "GALLERY",
        "role": "SECTION",
        "tileName": f"Tile {tile_id}",
        "content": {},
        "design": {},
        "visibility": True,
        "order": order,
        "hasChanges": False,
    }


def page(tile_ids: list[str]) -> dict[str, object]:
    """The only page, with all tiles on it."""
    return {"pageId": HOME, "title": "Home", "urlPath": "/", "visible": True, "tileIds": tile_ids}
