"""What the shop holds: reserved slots and stored pictures, kept in a folder with a journal."""

from __future__ import annotations

import base64
import itertools
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from tileferry.emulator import journal
from tileferry.emulator.chance import chance
from tileferry.emulator.pictures import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tileferry.emulator.pictures import Picture
    from tileferry.emulator.settings import EmulatorSettings

BUCKET = "emu-1"
"""The name of the only bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A complete picture, lying at `path` until it is stored. `digest` is SHA-256 in lower-case hex."""

    path: Path
    digest: str
    size: int
    picture: Picture
    filename: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A reserved slot. `fact.query` is its signature: exactly what has to follow the `?` of its address."""

    fact: journal.SlotFact
    reserved_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored picture. No result is told of it before `told_from`, and no `set` before `ready_from`."""

    fact: journal.ImageFact
    slot: journal.SlotFact
    told_from: float
    ready_from: float


class Store:
    """Slots and pictures. Every change is in the journal before its call is answered.

    `folder` must exist. The journal is flushed to the system, not to the disk: it outlives the emulator's
    process, which is what a demonstration needs, not a power cut.
    """

    def __init__(self, settings: EmulatorSettings, folder: Path, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self.pictures = folder / "pictures"
        self._incoming = folder / "incoming"
        self._incoming_numbers = itertools.count(1)
        self.slots: dict[str, Slot] = {}
        self.images: dict[str, Stored] = {}
        self.posts: Counter[str] = Counter()
        self.reposts = 0
        self.last_port = 0
        self._by_image_id: dict[tuple[int, str], str] = {}
        self._journal_path = folder / "journal.jsonl"
        self._journal: BinaryIO | None = None

    def open(self) -> None:
        """Read what an earlier emulator left in the folder, and go on from there.

        Raises `ValueError` if the folder's journal cannot be understood, `OSError` if it cannot be used.
        """
        self.pictures.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for half in self._incoming.iterdir():
            half.unlink()
        for fact in journal.read(self._journal_path):
            self._apply(fact, processed=True)
        self._journal = self._journal_path.open("ab")

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def note_port(self, port: int) -> None:
        """Remember the port, for the next start with this folder."""
        if port != self.last_port:
            self._record(journal.PortFact(port=port))

    def reserve(self, store: int, tile: str) -> Slot:
        """A new slot with a new image id; nothing is known of either beforehand."""
        name = f"{len(self.slots) + 1}-{secrets.token_hex(6)}"
        image_id = f"img/{name.replace('-', '+')} 50%41?ü" if self._settings.awkward_ids else f"img-{name}"
        fact = journal.SlotFact(
            slot=name, store=store, tile=tile, image_id=image_id, query=_signed_query(secrets.token_bytes(24))
        )
        self._record(fact)
        return self.slots[name]

    def is_over(self, slot: Slot) -> bool:
        """Whether the slot's time is over."""
        lifetime = self._settings.slot_lifetime
        return lifetime is not None and self._clock() - slot.reserved_at >= lifetime

    def image(self, store: int, image_id: str) -> Stored | None:
        """The picture stored under that id, told of or not."""
        slot = self._by_image_id.get((store, image_id))
        return None if slot is None else self.images.get(slot)

    def now(self) -> float:
        """The store's own time, in which `Stored` says from when a result is told."""
        return self._clock()

    def incoming(self) -> Path:
        """A path of its own for a body that is just coming in."""
        return self._incoming / str(next(self._incoming_numbers))

    def keep(self, slot: Slot, received: Received) -> bool:
        """A complete body came for the slot. False if it holds a picture already and takes no other."""
        name = slot.fact.slot
        if name in self.images and self._settings.slot_posts == "once":
            self._record(journal.PostFact(slot=name))
            received.path.unlink()
            return False
        file = f"{name}.{EXTENSIONS[received.picture.kind]}"
        received.path.replace(self.pictures / file)
        self._record(
            journal.ImageFact(
                slot=name,
                digest=received.digest,
                size=received.size,
                kind=received.picture.kind.value,
                width=received.picture.width,
                height=received.picture.height,
                filename=received.filename,
                file=file,
                stored_at=time.time(),
            )
        )
        return True

    def _record(self, fact: journal.Fact) -> None:
        # A short append to the system's cache: quicker than handing it to a thread would be.
        if self._journal is None:
            raise RuntimeError("The store is not open.")
        self._journal.write(journal.line(fact))
        self._journal.flush()
        self._apply(fact, processed=False)

    def _apply(self, fact: journal.Fact, *, processed: bool) -> None:
        now = self._clock()
        match fact:
            case journal.SlotFact():
                self.slots[fact.slot] = Slot(fact=fact, reserved_at=now)
                self._by_image_id[fact.store, fact.image_id] = fact.slot
            case journal.ImageFact():
                self._count_post(fact.slot)
                slot = self.slots[fact.slot].fact
                delay = 0.0 if processed else self._processing(slot)
                self.images[fact.slot] = Stored(
                    fact=fact, slot=slot, told_from=now + delay / 3, ready_from=now + delay
                )
            case journal.PostFact():
                self._count_post(fact.slot)
            case journal.PortFact():
                self.last_port = fact.port

    def _count_post(self, slot: str) -> None:
        self.posts[slot] += 1
        self.reposts += slot in self.images

    def _processing(self, slot: journal.SlotFact) -> float:
        # By the slot's number, so that the n-th image takes as long in every run with the same seed.
        number = slot.slot.partition("-")[0]
        source = chance(self._settings.seed, f"processing/{number}")
        usual = source.uniform(*self._settings.processing)
        slow = source.random() < self._settings.slow_share
        return source.uniform(*self._settings.slow_processing) if slow else usual


def _signed_query(noise: bytes) -> str:
    """A query as cloud stores sign them, with every escape that a careless client would rewrite.

    An escaped plus, slash and equals sign, lower-case digits in an escape, an escaped letter, a bare plus.
    """
    signature = "+/" + base64.b64encode(noise).decode() + "="
    return f"policy=a%2fb%7Ec%41+d&signature={quote(signature, safe='')}"
