"""Whatever happens to a stored pack is found: cut, flipped, blanked, exchanged."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.store import codec
from artifact_pipelines.store.encryption import Keyring, ScopeKey
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.pack import Location, PackWriter, object_key
from artifact_pipelines.store.store import Store

HOT, COLD, SEALED = "aa" * 16, "bb" * 16, "cc" * 16


class Folder:
    """The key of one scope."""

    def __init__(self, key: ScopeKey) -> None:
        self.key = key

    def scope(self, _scope: str) -> ScopeKey:
        return self.key


@dataclass
class Shelf:
    """A store with a raw, a coded and an encrypted pack, and what they hold.

    Attributes:
        store: The store.
        backend: Where it is.
        places: Where the chunks are.
        packs: The packs as they should be.
    """

    store: Store
    backend: MemoryBackend
    places: dict[str, Location]
    packs: dict[str, bytes]

    @classmethod
    def filled(cls) -> "Shelf":
        backend, scope = MemoryBackend(), ScopeKey.generate("digits")
        store = Store(backend, Keyring(backend, Folder(scope)))
        places: dict[str, Location] = {}
        rng = np.random.default_rng(7)
        base = (rng.standard_normal(400) * 0.02).astype("<f4")
        step = rng.standard_normal(400).astype("<f4") * np.float32(1e-5)
        keyring = store.keyring
        assert keyring is not None
        for number, (pack, within) in enumerate(((HOT, None), (COLD, None), (SEALED, scope.id))):
            key = None if within is None else keyring.create(pack, within)
            writer = PackWriter(backend, pack, key)
            data = (base * np.float32(number + 1)).tobytes()
            first = store.chunk_key(data, within)
            for chunk in (data, (base * np.float32(number + 1) + step).tobytes()):
                name = store.chunk_key(chunk, within)
                found = codec.Encoded(codec.RAW, chunk)
                if pack != HOT:
                    found = codec.encode(chunk, None if name == first else data)
                leans = first if found.differs else None
                like = Location("", 0, 0, len(chunk), found.codec, leans)
                places[name] = writer.add(name, found.data, like)
            writer.seal()
        packs = {pack: backend.get(object_key(pack)) for pack in (HOT, COLD, SEALED)}
        return cls(store, backend, places, packs)

    def is_sound(self) -> bool:
        """Return whether a scrub would find nothing."""
        try:
            footers = {pack: self.store.read_footer(pack) for pack in self.packs}
            for key, place in self.places.items():
                if footers[place.pack].get(key) != place:
                    return False
                self.store.read_chunk(key, place, self.places.get(place.base or ""))
        except ArtifactError:
            return False
        return True

    def restore(self) -> None:
        for pack, data in self.packs.items():
            self.backend.put(object_key(pack), data)


def cut(dice: random.Random, shelf: Shelf, pack: str) -> None:
    data = shelf.packs[pack]
    shelf.backend.put(object_key(pack), data[: dice.randrange(len(data))])


def flip(dice: random.Random, shelf: Shelf, pack: str) -> None:
    data = bytearray(shelf.packs[pack])
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    shelf.backend.put(object_key(pack), bytes(data))


def blank(dice: random.Random, shelf: Shelf, pack: str) -> None:
    data = bytearray(shelf.packs[pack])
    start = dice.randrange(len(data) - 64)
    length = dice.randrange(16, len(data) - start)
    data[start : start + length] = bytes(length)
    shelf.backend.put(object_key(pack), bytes(data))


def exchange(dice: random.Random, shelf: Shelf, pack: str) -> None:
    other = dice.choice([name for name in shelf.packs if name != pack])
    shelf.backend.put(object_key(pack), shelf.packs[other])
    shelf.backend.put(object_key(other), shelf.packs[pack])


def lose(_dice: random.Random, shelf: Shelf, pack: str) -> None:
    shelf.backend.delete(object_key(pack))


def append(dice: random.Random, shelf: Shelf, pack: str) -> None:
    shelf.backend.put(object_key(pack), shelf.packs[pack] + dice.randbytes(dice.randrange(1, 99)))


DAMAGES: list[Callable[[random.Random, Shelf, str], None]] = [
    *(cut, flip, blank, exchange, lose, append)
]


def trials(count: int, seed: int) -> int:
    """Return how many of some damages were found."""
    shelf, dice = Shelf.filled(), random.Random(seed)
    found = 0
    for _ in range(count):
        dice.choice(DAMAGES)(dice, shelf, dice.choice(list(shelf.packs)))
        found += not shelf.is_sound()
        shelf.restore()
    return found


def test_the_packs_are_sound_and_coded_before_they_are_damaged() -> None:
    shelf = Shelf.filled()
    kinds = {place.codec.partition("/")[0] for place in shelf.places.values()}

    assert shelf.is_sound()
    assert kinds == {"raw", "planes", "difference"}
    assert {place.key_id is None for place in shelf.places.values()} == {True, False}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage.__name__))
def test_each_kind_of_damage_is_found(
    damage: Callable[[random.Random, Shelf, str], None],
) -> None:
    shelf, dice = Shelf.filled(), random.Random(1)
    for pack in shelf.packs:
        damage(dice, shelf, pack)

        assert not shelf.is_sound(), pack
        shelf.restore()
        assert shelf.is_sound()


def test_ten_thousand_damages_are_found() -> None:
    assert trials(10_000, seed=3) == 10_000
