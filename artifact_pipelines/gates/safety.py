"""The gate that asks whether a model's files can be opened without running anything.

What a file is, its content says: names and extensions are never looked at. A format that is
not allowed is refused, and so is anything that cannot be read to its last byte.
"""

import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates import formats, pickles

GATE: Final = "safety"
MIB: Final = 1024 * 1024
MAX_DEPTH: Final = 3
"""How deep archives may lie in archives."""
MAX_MEMBERS: Final = 10_000
MAX_UNPACKED: Final = 1024 * MIB
MAX_RATIO: Final = 200
"""An archive may unpack to the larger of a GiB and 200 times its size, archives in it included."""
MAX_REASONS: Final = 20

_MAGIC: Final = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"PAR1", "parquet"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"GGUF", "gguf"),
    (0, b"\x1f\x8b", "gzip"),
    (4, b"1AY&SY", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"\x7fELF", "an executable"),
    (4, b"TFL3", "tflite"),
    (257, b"ustar", "tar"),
)
_CHECKS: Final[Mapping[str, Callable[[BinaryIO, int], None]]] = {
    "safetensors": formats.check_safetensors,
    "npy": formats.check_npy,
    "parquet": formats.check_parquet,
    "json": formats.check_json,
    "onnx": formats.check_onnx,
    "csv": formats.check_text,
    "text": formats.check_text,
}
_TORCH_TEXTS: Final = frozenset({"version", "byteorder", ".format_version", ".storage_alignment"})
_LOCAL_HEADER: Final = 30
_HAS_DESCRIPTOR: Final = 0x8
_IN_EXTRA: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one file is, and what stands against it.

    Attributes:
        format: What its content says it is.
        problems: Why it must not be opened, one clause each.
        holds: What an archive of no kind of its own has as members.
    """

    format: str
    problems: tuple[str, ...] = ()
    holds: frozenset[str] = frozenset()


def safety_finding(folder: Path, allowed: Collection[str]) -> Finding:
    """Return whether every file below a folder is of an allowed format, and sound.

    Args:
        folder: The model's files.
        allowed: The formats that its files may have. Where `pickle` or `torch` is among them,
            a pickle may still ask only for what `pickles.ALLOWED` names.
    """
    reasons: list[str] = []
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        inspection = inspect(path)
        found[name] = inspection.format
        kinds = [("is", inspection.format), *(("holds", kind) for kind in sorted(inspection.holds))]
        reasons += [
            f"{name} {verb} {kind}, and only {', '.join(sorted(allowed))} may be served"
            for verb, kind in kinds
            if kind not in allowed
        ]
        reasons += [f"{name}: {problem}" for problem in inspection.problems]
    if not found:
        reasons.append("the model has no files")
    formats_found = ", ".join(sorted(set(found.values())))
    if len(reasons) > MAX_REASONS:
        reasons[MAX_REASONS:] = [f"{len(reasons) - MAX_REASONS} more problems"]
    return Finding(
        GATE,
        passed=not reasons,
        reasons=tuple(reasons) or (f"{len(found)} files, all of {formats_found}",),
        values={"formats": formats_found},
        evidence={"files": found},
    )


def inspect(path: Path) -> Inspection:
    """Return what a file is and what stands against opening it, without running any of it."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return Inspection("no regular file", ("it is a link or a device",))
        with path.open("rb") as file:
            size = path.stat().st_size
            return _inspect(file, size, _Budget(max(MAX_UNPACKED, MAX_RATIO * size)))
    except OSError as error:
        return Inspection("unreadable", (f"it cannot be read: {error.strerror or error}",))


@dataclass(slots=True)
class _Budget:
    """How much may still be unpacked.

    Attributes:
        left: The bytes.
        depth: How deep the present archive lies in others.
    """

    left: int
    depth: int = 0


def _inspect(file: BinaryIO, size: int, budget: _Budget) -> Inspection:
    """Return what an open file is and what stands against it."""
    file.seek(0)
    trace = pickles.trace(file, size)
    kind = _sniff(file, size, trace)
    problems = []
    if kind == "pickle":
        return Inspection(kind, tuple(trace.problems(size)))
    if trace.acts:
        problems.append("a loader of pickles would run it")
    if kind == "zip":
        found = _guard(kind, lambda: _inspect_zip(file, size, budget))
    else:
        found = _guard(kind, lambda: _check(kind, file, size))
        if zipfile.is_zipfile(file):
            problems.append("it is also a zip archive")
    return Inspection(found.format, (*problems, *found.problems), found.holds)


def _guard(kind: str, look: Callable[[], Inspection]) -> Inspection:
    """Return what a reading finds; a file that cannot be read has that against it."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 (whatever a reader raises, the file is refused)
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return Inspection(kind, (f"it cannot be read as {kind}: {said.rstrip('.')}",))


def _check(kind: str, file: BinaryIO, size: int) -> Inspection:
    check = _CHECKS.get(kind)
    if check is not None:
        check(file, size)
    return Inspection(kind)


def _sniff(file: BinaryIO, size: int, trace: pickles.Trace) -> str:
    """Return what the content of a file says it is."""
    file.seek(0)
    head = file.read(512)
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05") or (size and trace.end == size):
        return "pickle"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if _reads_as(formats.check_text, file, size):
        return _sniff_text(file, size, head)
    return "onnx" if _reads_as(formats.check_onnx, file, size) else "unknown"


def _sniff_text(file: BinaryIO, size: int, head: bytes) -> str:
    """Return what kind of text a text is."""
    if head.lstrip(b" \t\r\n")[:1] in {b"{", b"["} and _reads_as(formats.check_json, file, size):
        return "json"
    return "csv" if formats.is_csv(file) else "text"


def _reads_as(check: Callable[[BinaryIO, int], None], file: BinaryIO, size: int) -> bool:
    try:
        check(file, size)
    except ValueError:
        return False
    return True


def _inspect_zip(file: BinaryIO, size: int, budget: _Budget) -> Inspection:
    """Return what a zip archive is by its members, and what stands against it and them."""
    if budget.depth == MAX_DEPTH:
        raise InvalidFormatError("archives lie too deep in archives")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_layout(archive, file, size)
        if len(members) > MAX_MEMBERS:
            raise InvalidFormatError(f"it has more than {MAX_MEMBERS} members")
        prefix = _torch_prefix(members)
        kinds: set[str] = set()
        problems = []
        budget.depth += 1
        for member in members:
            if member.is_dir():
                continue
            with _unpacked(archive, member, budget) as content:
                inspection = _inspect_member(content, member, budget, prefix)
            kinds |= {inspection.format} | inspection.holds
            problems += [f"{member.filename}: {one}" for one in inspection.problems]
        budget.depth -= 1
    if prefix is not None:
        return Inspection("torch", tuple(problems))
    if kinds == {"npy"}:
        return Inspection("npz", tuple(problems))
    return Inspection("zip", tuple(problems), frozenset(kinds))


def _inspect_member(
    content: BinaryIO, member: zipfile.ZipInfo, budget: _Budget, prefix: str | None
) -> Inspection:
    """Return what a member of an archive is and what stands against it."""
    if prefix is None:
        return _inspect(content, member.file_size, budget)
    name = member.filename.removeprefix(prefix)
    if name == "data.pkl":
        content.seek(0)
        found = pickles.trace(content, member.file_size)
        return Inspection("pickle", tuple(found.problems(member.file_size, persistent=True)))
    if name.startswith("data/") and name.removeprefix("data/").isdigit():
        return Inspection("storage")
    if name in _TORCH_TEXTS or name == ".data/serialization_id":
        return _guard("text", lambda: _check("text", content, member.file_size))
    return Inspection("unknown", ("it does not belong into a torch archive",))


def _torch_prefix(members: Collection[zipfile.ZipInfo]) -> str | None:
    """Return the folder that a torch archive keeps everything in, if it is one."""
    for member in members:
        folder, _, name = member.filename.partition("/")
        if name == "data.pkl" or member.filename == "data.pkl":
            return f"{folder}/" if name else ""
    return None


def _check_layout(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> None:
    """Check that every byte of an archive belongs to one member of its directory.

    Readers differ in what they trust, the directory or the headers before each member; what
    only one of them sees could hide from this reading.
    """
    names = [member.filename for member in archive.infolist()]
    if len(names) != len(set(names)):
        raise InvalidFormatError("two members have one name")
    at = 0
    for member in sorted(archive.infolist(), key=lambda one: one.header_offset):
        _check_name(member)
        gap = member.header_offset - at
        if gap != 0:
            raise InvalidFormatError(f"{member.filename} does not begin where it should")
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise InvalidFormatError(f"{member.filename} has no header")
        if not _told_twice_alike(header, member):
            raise InvalidFormatError(f"{member.filename} has two readings")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        at += _LOCAL_HEADER + lengths + member.compress_size
        if member.flag_bits & _HAS_DESCRIPTOR:
            at += _descriptor(file, at)
    if at != archive.start_dir:
        raise InvalidFormatError("bytes lie between its members and its directory")
    if archive.comment or not _ends_with_directory(file, size, len(names)):
        raise InvalidFormatError("bytes lie behind its directory")


def _told_twice_alike(header: bytes, member: zipfile.ZipInfo) -> bool:
    """Return whether the header before a member says what the directory says."""
    flags, method = struct.unpack_from("<HH", header, 6)
    if (flags, method) != (member.flag_bits, member.compress_type):
        return False
    told = struct.unpack_from("<III", header, 14)
    known = (member.CRC, member.compress_size, member.file_size)
    later = flags & _HAS_DESCRIPTOR
    return all(one in {other, _IN_EXTRA} or later for one, other in zip(told, known, strict=True))


def _descriptor(file: BinaryIO, at: int) -> int:
    """Return how many bytes describe a member behind its data."""
    file.seek(at)
    behind = file.read(32)
    for length in (16, 24, 12, 20):
        if behind[length : length + 4] in {b"PK\x03\x04", b"PK\x01\x02"}:
            return length
    raise InvalidFormatError("a member does not end where it should")


def _ends_with_directory(file: BinaryIO, size: int, count: int) -> bool:
    """Return whether the last bytes close the directory that was read."""
    file.seek(max(0, size - 22))
    end = file.read()
    told = int.from_bytes(end[10:12], "little")
    return end[:4] == b"PK\x05\x06" and end[20:] == b"\0\0" and told in {count, 0xFFFF}


def _check_name(member: zipfile.ZipInfo) -> None:
    """Check that a member stays below the folder it would be unpacked in."""
    parts = member.filename.rstrip("/").split("/")
    if "\\" in member.orig_filename or "\0" in member.orig_filename or ":" in parts[0]:
        raise InvalidFormatError(f"the name {member.orig_filename!r} is not plain")
    if any(part in {"", ".", ".."} for part in parts):
        raise InvalidFormatError(f"the name {member.filename!r} leads elsewhere")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InvalidFormatError(f"{member.filename} is a link")


@contextmanager
def _unpacked(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget
) -> Iterator[BinaryIO]:
    """Yield the content of a member, checked against its size and checksum."""
    with archive.open(member) as packed, tempfile.SpooledTemporaryFile(16 * MIB) as content:
        size = 0
        while block := packed.read(MIB):
            size += len(block)
            budget.left -= len(block)
            if budget.left < 0:
                raise InvalidFormatError("it unpacks to too much")
            content.write(block)
        if size != member.file_size:
            raise InvalidFormatError(f"{member.filename} has another size than it says")
        yield cast("BinaryIO", content)
