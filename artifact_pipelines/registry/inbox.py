"""Where outside trainers leave checkpoints: a folder, or a prefix of a bucket."""

import contextlib
import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.domain.layout import MARKER
from artifact_pipelines.errors import SourceError

if TYPE_CHECKING:
    from artifact_pipelines.store.bucket import Bucket, Listed

SETTING = "ARTIFACT_PIPELINES_INBOX"
"""The variable that names the inbox of the sensor."""
REST = 300.0
"""Seconds that a drop in a bucket lies unchanged where its files do not say that it is whole."""

_SMALL = 64 * 2**20  # what a drop says of itself is read whole up to here


@dataclass(frozen=True)
class Left(ABC):
    """Something that was left below `project/run/`.

    Attributes:
        project: The project.
        run: The run.
        name: The name of the folder, or of the only file.
        sizes: Its files and their sizes, by path; the marker that it is complete is none.
        marked: Whether a marker says that it is complete.
        fingerprint: What changes when any of its files does.
    """

    project: str
    run: str
    name: str
    sizes: Mapping[str, int]
    marked: bool
    fingerprint: str

    @property
    def place(self) -> str:
        """Where it is in the inbox."""
        return f"{self.project}/{self.run}/{self.name}"

    @property
    @abstractmethod
    def ordered(self) -> bool:
        """Whether its files came in the order in which the trainer wrote them."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of one of its small files."""

    @abstractmethod
    def here(self) -> contextlib.AbstractContextManager[Mapping[str, Path]]:
        """Yield its files on this machine, by path."""

    def _check_small(self, name: str) -> None:
        if self.sizes[name] > _SMALL:
            raise SourceError(f"{name!r} is too large to be read whole")


@dataclass(frozen=True)
class _LeftInFolder(Left):
    files: Mapping[str, Path]

    @property
    def ordered(self) -> bool:
        return True

    def read(self, name: str) -> bytes:
        self._check_small(name)
        return self.files[name].read_bytes()

    @contextlib.contextmanager
    def here(self) -> Iterator[Mapping[str, Path]]:
        yield self.files


@dataclass(frozen=True)
class _LeftInBucket(Left):
    bucket: "Bucket"
    objects: Mapping[str, "Listed"]

    @property
    def ordered(self) -> bool:
        """Uploads overtake each other: only a rest, or a marker, says that none is under way."""
        return self.marked or min(one.age for one in self.objects.values()) >= REST

    def read(self, name: str) -> bytes:
        self._check_small(name)
        with tempfile.TemporaryDirectory(prefix="artifact-pipelines-") as folder:
            file = Path(folder) / "file"
            self.bucket.download(self.objects[name], file)
            return file.read_bytes()

    @contextlib.contextmanager
    def here(self) -> Iterator[Mapping[str, Path]]:
        with tempfile.TemporaryDirectory(prefix="artifact-pipelines-") as folder:
            files = {name: Path(folder) / name for name in self.objects}
            for name, file in files.items():
                self.bucket.download(self.objects[name], file)
            yield files


def left_in(inbox: str | Path) -> list[Left]:
    """Return everything that was left in an inbox; a note goes with its tensors.

    Args:
        inbox: A folder, or `s3://bucket/prefix`.

    Raises:
        SourceError: There is no such folder.
        ConfigurationError: The URL or the environment cannot be used.
        StoreError: The bucket is not there, or does not answer.
    """
    if str(inbox).startswith("s3:"):
        return list(_in_bucket(str(inbox)))
    folder = Path(inbox)
    if not folder.is_dir():
        raise SourceError(
            f"the inbox {str(inbox)!r} is no folder; make it first, or name s3://bucket/prefix."
        )
    return list(_in_folder(folder))


def _in_folder(inbox: Path) -> Iterator[Left]:
    for project in sorted(item for item in inbox.iterdir() if item.is_dir()):
        for run in sorted(item for item in project.iterdir() if item.is_dir()):
            for path in sorted(run.iterdir()):
                if path.suffix == ".json" and not path.is_dir():
                    continue
                files = _files(path)
                marked = files.pop(MARKER, None) is not None
                stats = {name: file.lstat() for name, file in sorted(files.items())}
                seen = [[name, one.st_size, one.st_mtime_ns] for name, one in stats.items()]
                sizes = {name: file.stat().st_size for name, file in files.items()}
                yield _LeftInFolder(
                    project.name, run.name, path.name, sizes, marked, _fingerprint(seen), files
                )


def _files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        note = path.with_suffix(".json")
        pair = [path, note] if path.suffix == ".safetensors" and note.is_file() else [path]
        return {file.name: file for file in pair}
    return {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() or file.is_symlink()
    }


def _in_bucket(url: str) -> Iterator[Left]:
    # Its libraries take longer to import than everything else that an inbox needs.
    from artifact_pipelines.store.bucket import Bucket  # noqa: PLC0415

    bucket = Bucket(url, role="inbox", setting=SETTING)
    groups: dict[tuple[str, str, str], dict[str, Listed]] = {}
    for item in bucket.listed():
        project, run, name, *inside = [*item.key.split("/", 3), "", ""][:4]
        # Consoles make folders as empty objects whose keys end with a slash.
        if not name or item.key.endswith("/"):
            continue
        groups.setdefault((project, run, name), {})["".join(inside) or name] = item
    for (project, run, name), objects in sorted(groups.items()):
        alone = name in objects
        if alone and name.endswith(".json"):
            continue
        note = f"{name.removesuffix('.safetensors')}.json"
        beside = groups.get((project, run, note), {})
        if alone and name.endswith(".safetensors") and note in beside:
            objects[note] = beside[note]
        marked = objects.pop(MARKER, None) is not None
        seen = [[path, one.size, one.etag] for path, one in sorted(objects.items())]
        sizes = {path: one.size for path, one in objects.items()}
        yield _LeftInBucket(project, run, name, sizes, marked, _fingerprint(seen), bucket, objects)


def _fingerprint(seen: Sequence[Sequence[object]]) -> str:
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()
