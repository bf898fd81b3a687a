"""What really happened, for tests and people to compare with what a client says."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tileferry.emulator.shop import Shop
    from tileferry.emulator.store import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTruth:
    """One stored image. `posted` counts the complete bodies that came for its slot, `stored_at` is Unix time.

    `digest` is the SHA-256 of the stored bytes in lower-case hex, `kind` their media type.
    """

    store: int
    tile: str
    image_id: str
    digest: str
    size: int
    kind: str
    filename: str
    posted: int
    stored_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """One picture that is stored for one tile under more than one image id."""

    store: int
    tile: str
    digest: str
    image_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A snapshot. Images, slots and reposts outlive a restart with the same folder, the other counts do not.

    `calls` counts by kind, `calls_by_status` by status (0: nobody was answered), `faults` by kind of fault.
    `peak_concurrency` counts calls that were served at once, `peak_uploads` the uploads among them.
    `refused_posts`: uploads answered with 4xx other than 429. `reposts`: complete bodies for a slot that held
    a picture already. `token_leaks`: calls that brought a token to the upload host or the bucket.
    `bad_token_calls`: API calls and exchanges with a missing, wrong or expired token. `throttled`: 429s by
    the rate limit. `hammered`: how often that became a long block. `max_calls_in_window`: the most API calls
    that one token made within any 60 seconds, refused ones included; `windows` has it for each token's
    fingerprint.
    """

    images: tuple[ImageTruth, ...]
    duplicates: tuple[Duplicate, ...]
    slots: int
    reposts: int
    calls: Mapping[str, int]
    calls_by_status: Mapping[int, int]
    faults: Mapping[str, int]
    peak_concurrency: int
    peak_uploads: int
    refused_posts: int
    token_leaks: int
    bad_token_calls: int
    throttled: int
    hammered: int
    max_calls_in_window: int
    windows: Mapping[str, int]

    def as_json(self) -> str:
        """The snapshot as one JSON object with the same names."""
        return json.dumps(asdict(self), ensure_ascii=False)


def take_truth(shop: Shop) -> Truth:
    """The truth about that emulator at this moment."""
    images = tuple(_image(shop, stored) for stored in shop.store.images.values())
    windows = shop.limits.most
    return Truth(
        images=images,
        duplicates=_duplicates(images),
        slots=len(shop.store.slots),
        reposts=shop.store.reposts,
        calls=dict(shop.log.by_kind),
        calls_by_status=dict(shop.log.by_status),
        faults=dict(shop.log.by_fault),
        peak_concurrency=shop.log.peak,
        peak_uploads=shop.log.peak_uploads,
        refused_posts=shop.log.refused_posts,
        token_leaks=shop.log.token_leaks,
        bad_token_calls=shop.log.bad_token_calls,
        throttled=shop.limits.throttled,
        hammered=shop.limits.hammered,
        max_calls_in_window=max(windows.values(), default=0),
        windows=windows,
    )


def _image(shop: Shop, stored: Stored) -> ImageTruth:
    return ImageTruth(
        store=stored.slot.store,
        tile=stored.slot.tile,
        image_id=stored.slot.image_id,
        digest=stored.fact.digest,
        size=stored.fact.size,
        kind=stored.fact.kind,
        filename=stored.fact.filename,
        posted=shop.store.posts[stored.slot.slot],
        stored_at=stored.fact.stored_at,
    )


def _duplicates(images: tuple[ImageTruth, ...]) -> tuple[Duplicate, ...]:
    ids: defaultdict[tuple[int, str, str], list[str]] = defaultdict(list)
    for image in images:
        ids[image.store, image.tile, image.digest].append(image.image_id)
    return tuple(
        Duplicate(store=store, tile=tile, digest=digest, image_ids=tuple(same))
        for (store, tile, digest), same in ids.items()
        if len(same) > 1
    )
