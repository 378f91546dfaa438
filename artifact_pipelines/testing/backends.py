"""What every backend must do, as tests to inherit."""

# ruff: noqa: PLR2004, S101, S311  these are tests, though they are part of the package

import functools
import random
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from artifact_pipelines.errors import InvalidNameError, MissingObjectError, StoreError
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.opening import open_backend

WRITERS = 16
REFUSED_KEYS = [
    "",
    "/",
    "/absolute",
    "ends/",
    "two//slashes",
    ".",
    "..",
    "../above",
    "a/../b",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "tmp",
    "tmp/unfinished",
    "back\\slash",
    "nul\0",
    "line\n",
    "space ",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "per%2e%2ecent",
    "a#b",
    "x" * 600,
]


class BackendTests(ABC):
    """The contract of a backend.

    A subclass, named so that pytest collects it, gives a fixture `backend` with an empty
    backend, and two accessors that reach the stored bytes without the backend's own code.

    Attributes:
        turns: How often writers race each other; fewer where a server makes losers wait.
    """

    turns: ClassVar[int] = 5

    @abstractmethod
    def raw_put(self, backend: Backend, key: str, data: bytes) -> None:
        """Place an object's bytes past the backend."""

    @abstractmethod
    def raw_get(self, backend: Backend, key: str) -> bytes | None:
        """Return an object's bytes past the backend, or None when there is none."""

    def test_what_is_put_is_stored(self, backend: Backend) -> None:
        """The bytes arrive where others look for them."""
        assert backend.put("objects/one", b"some bytes") is True
        assert self.raw_get(backend, "objects/one") == b"some bytes"

    def test_what_is_stored_is_got(self, backend: Backend) -> None:
        """The bytes come from where others put them."""
        self.raw_put(backend, "objects/one", b"some bytes")

        assert backend.get("objects/one") == b"some bytes"
        assert backend.size("objects/one") == 10

    def test_an_object_may_be_empty(self, backend: Backend) -> None:
        """No bytes are not no object."""
        backend.put("empty", b"")

        assert backend.get("empty") == b""
        assert backend.size("empty") == 0
        assert list(backend.keys()) == ["empty"]

    def test_a_second_put_replaces(self, backend: Backend) -> None:
        """The last put counts, whichever is longer."""
        backend.put("one", b"a long value")

        assert backend.put("one", b"short") is True
        assert self.raw_get(backend, "one") == b"short"

    def test_a_put_if_absent_leaves_what_is_there(self, backend: Backend) -> None:
        """The first put if absent counts."""
        assert backend.put("one", b"first", if_absent=True) is True
        assert backend.put("one", b"second", if_absent=True) is False
        assert self.raw_get(backend, "one") == b"first"

    def test_a_buffer_may_be_used_again(self, backend: Backend) -> None:
        """What was put or written does not change with its source."""
        buffer = bytearray(b"before")
        with backend.create("written") as writer:
            writer.write(memoryview(buffer))
            buffer[:] = b"after!"
            writer.commit()

        assert self.raw_get(backend, "written") == b"before"

    @pytest.mark.parametrize(
        "start, length, expected",
        [
            (0, None, b"0123456789"),
            (0, 4, b"0123"),
            (3, 4, b"3456"),
            (3, None, b"3456789"),
            (8, 4, b"89"),
            (0, 0, b""),
            (10, 1, b""),
            (99, None, b""),
            (99, 5, b""),
            (2, 1 << 60, b"23456789"),
        ],
    )
    def test_a_range_is_cut_where_the_object_ends(
        self, backend: Backend, start: int, length: int | None, expected: bytes
    ) -> None:
        """A range gives the bytes that are there, and allocates no others."""
        self.raw_put(backend, "digits", b"0123456789")

        assert backend.get("digits", start, length) == expected

    def test_a_missing_object_is_missing_everywhere(self, backend: Backend) -> None:
        """Every method says in its own way that there is nothing."""
        backend.put("folder/object", b"")
        for key in ("none", "folder", "folder/object/below"):
            assert backend.size(key) is None
            assert backend.delete(key) is False
            with pytest.raises(MissingObjectError, match=key):
                backend.get(key)
            with pytest.raises(MissingObjectError, match=key):
                backend.age(key)

    def test_keys_are_sorted_and_chosen_by_prefix(self, backend: Backend) -> None:
        """Keys come in the order of their code points, folders or not."""
        keys = ["a", "a-b", "a/b", "a/b-c", "a/b/c", "a0", "b/A", "b/a"]
        assert keys == sorted(keys)
        for key in random.Random(1).sample(keys, len(keys)):
            try:
                backend.put(key, b"")
            except StoreError:
                # A file cannot be a folder too; an object store may allow it.
                keys.remove(key)

        assert list(backend.keys()) == keys
        for prefix in ("a", "a/", "a/b", "a/b/", "a-", "b/", "b/a", "c", "c/d", "../", "/"):
            assert list(backend.keys(prefix)) == [key for key in keys if key.startswith(prefix)]

    def test_a_deleted_object_is_gone(self, backend: Backend) -> None:
        """Deletion is reported once."""
        backend.put("one", b"1")
        backend.put("two", b"2")

        assert backend.delete("one") is True
        assert backend.delete("one") is False
        assert self.raw_get(backend, "one") is None
        assert list(backend.keys()) == ["two"]

    def test_an_object_ages_from_its_writing(self, backend: Backend) -> None:
        """Ages are seconds, and never negative."""
        backend.put("one", b"1")

        assert 0 <= backend.age("one") < 60

    def test_a_writer_makes_one_object(self, backend: Backend) -> None:
        """Pieces of any kind are joined in their order."""
        writer = backend.create("deep/in/folders")
        for piece in (b"one ", memoryview(b"two "), b"", b"three"):
            writer.write(piece)
        writer.commit()

        assert self.raw_get(backend, "deep/in/folders") == b"one two three"

    def test_nothing_is_there_before_the_commit(self, backend: Backend) -> None:
        """An unfinished object is in no listing and under no key."""
        with backend.create("one") as writer:
            writer.write(b"bytes")

            assert backend.size("one") is None
            assert list(backend.keys()) == []
            writer.commit()
        assert list(backend.keys()) == ["one"]

    def test_an_aborted_object_never_was(self, backend: Backend) -> None:
        """An abort, or leaving the block without a commit, leaves nothing."""
        writer = backend.create("one")
        writer.write(b"bytes")
        writer.abort()
        writer.abort()
        with backend.create("two") as other:
            other.write(b"bytes")

        assert list(backend.keys()) == []
        assert backend.sweep_temporaries(0) == 0

    def test_an_abort_after_the_commit_changes_nothing(self, backend: Backend) -> None:
        """What is committed stays."""
        writer = backend.create("one")
        writer.write(b"bytes")
        writer.commit()
        writer.abort()

        assert self.raw_get(backend, "one") == b"bytes"

    def test_a_finished_writer_refuses_more(self, backend: Backend) -> None:
        """Neither a committed nor an aborted writer takes bytes or commits again."""
        committed, aborted = backend.create("one"), backend.create("two")
        committed.commit()
        aborted.abort()
        for writer in (committed, aborted):
            with pytest.raises(StoreError):
                writer.write(b"more")
            with pytest.raises(StoreError):
                writer.commit()

        assert list(backend.keys()) == ["one"]

    def test_a_writer_replaces_nothing(self, backend: Backend) -> None:
        """A key that was taken meanwhile is left as it is."""
        with backend.create("one") as writer:
            writer.write(b"late")
            backend.put("one", b"early")
            with pytest.raises(StoreError, match="there already"):
                writer.commit()

        assert self.raw_get(backend, "one") == b"early"
        assert backend.sweep_temporaries(0) == 0

    def test_a_sweep_leaves_living_writers_alone(self, backend: Backend) -> None:
        """However old what it writes is, a writer that lives can commit."""
        with backend.create("one") as writer:
            writer.write(b"bytes")

            assert backend.sweep_temporaries(0) == 0
            writer.commit()
        assert self.raw_get(backend, "one") == b"bytes"

    @pytest.mark.parametrize("key", REFUSED_KEYS)
    def test_a_key_that_is_no_plain_path_is_refused(self, backend: Backend, key: str) -> None:
        """No method takes a key that could leave the store or meet another key."""
        with pytest.raises(InvalidNameError):
            backend.put(key, b"")
        with pytest.raises(InvalidNameError):
            backend.create(key)
        with pytest.raises(InvalidNameError):
            backend.get(key)
        with pytest.raises(InvalidNameError):
            backend.size(key)
        with pytest.raises(InvalidNameError):
            backend.age(key)
        with pytest.raises(InvalidNameError):
            backend.delete(key)

        assert list(backend.keys()) == []

    def test_one_of_many_puts_if_absent_wins(self, backend: Backend) -> None:
        """Of writers at the same time one stores, and the others learn of it."""
        values = [f"value {number}".encode() * 100 for number in range(WRITERS)]
        for turn in range(self.turns):
            put = functools.partial(backend.put, f"turn/{turn}", if_absent=True)
            with ThreadPoolExecutor(WRITERS) as pool:
                won = list(pool.map(put, values))

            assert won.count(True) == 1
            assert self.raw_get(backend, f"turn/{turn}") == values[won.index(True)]

    def test_puts_at_the_same_time_leave_one_whole_object(self, backend: Backend) -> None:
        """No object is a mixture of two."""
        values = [bytes([number]) * 10_000 for number in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda data: backend.put("one", data), values))

        assert self.raw_get(backend, "one") in values

    def test_its_address_opens_it_again(self, backend: Backend) -> None:
        """Another backend at the same address sees the same objects."""
        backend.put("one", b"bytes")

        assert open_backend(backend.url).get("one") == b"bytes"

    @pytest.mark.parametrize("seed", range(5))
    def test_it_behaves_like_a_dictionary(self, backend: Backend, seed: int) -> None:
        """Any sequence of operations leaves what the same sequence leaves in a dictionary."""
        chance = random.Random(seed)
        model: dict[str, bytes] = {}
        for number in range(150):
            key = f"{chance.choice('ab')}/{chance.randrange(6)}"
            data = str(number).encode() * chance.randrange(4)
            match chance.choice(["put", "put_if_absent", "write", "delete", "get"]):
                case "put":
                    assert backend.put(key, data)
                    model[key] = data
                case "put_if_absent":
                    assert backend.put(key, data, if_absent=True) == (key not in model)
                    model.setdefault(key, data)
                case "write" if key not in model:
                    with backend.create(key) as writer:
                        writer.write(data)
                        writer.commit()
                    model[key] = data
                case "delete":
                    assert backend.delete(key) == (model.pop(key, None) is not None)
                case _ if key in model:
                    assert backend.get(key) == model[key]
                case _:
                    assert backend.size(key) is None

        keys = list(backend.keys())

        assert keys == sorted(model)
        assert {key: self.raw_get(backend, key) for key in keys} == model
