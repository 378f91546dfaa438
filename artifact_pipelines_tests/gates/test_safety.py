"""What a file is, its content says; what is not whole, or not allowed, is refused."""

import base64
import io
import json
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from artifact_pipelines.domain.gate import FORMATS
from artifact_pipelines.gates import formats, safety
from artifact_pipelines.gates.safety import inspect, safety_finding
from artifact_pipelines_tests.gates.test_pickles import real_loader

# A graph with an initializer, a constant, two branches and metadata, written by the onnx package.
ONNX = base64.b64decode(
    "CA4yA2RvYzrCAgoRCgF4CgFXEgF5IgZNYXRNdWwKdgoBYxIBeiICSWYqNAoLZWxzZV9icmFuY2gyIgoRCgFXEgJ5"
    "MSIISWRlbnRpdHkSAXRiCgoCeTESBAoCCAGgAQUqNAoLdGhlbl9icmFuY2gyIgoRCgFXEgJ5MSIISWRlbnRpdHkS"
    "AXRiCgoCeTESBAoCCAGgAQUKPBIBayIIQ29uc3RhbnQqLQoFdmFsdWUqIQgDEAdCAWtKGAAAAAAAAAAAAQAAAAAA"
    "AAACAAAAAAAAAKABBBIBZyo7CAMIBBABQgFXSjAAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8A"
    "AIA/AACAPwAAgD9aFAoBeBIPCg0IARIJCgMSAWIKAggDWgsKAWMSBgoECAkSAGIUCgF5Eg8KDQgBEgkKAxIBYgoC"
    "CARCAhAccgYKAWESAWI="
)
TENSORS = {
    "a": np.ones((3, 4), "f4"),
    "b": np.zeros(0, "f4"),
    "c": np.arange(5),
    "d": np.array(1.0),
}


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return written(write)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    return written(lambda buffer: np.save(buffer, array))


def tensors(header: object, data: bytes) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def tensor(
    start: int, stop: int, shape: list[Any] | None = None, dtype: object = "U8"
) -> dict[str, object]:
    shape = [stop - start] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


PADDED = tensors(b'{"a": ' + json.dumps(tensor(0, 3)).encode() + b"}   ", b"xyz")
TABLE = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})
BENIGN = {
    "safetensors": ("safetensors", save(TENSORS)),
    "safetensors with metadata": ("safetensors", save(TENSORS, metadata={"format": "np"})),
    "safetensors without tensors": ("safetensors", save({})),
    "safetensors padded": ("safetensors", PADDED),
    "npy": ("npy", npy(np.ones((2, 3)))),
    "npy in Fortran order": ("npy", npy(np.asfortranarray(np.ones((2, 3))))),
    "npy of records": ("npy", npy(np.zeros(3, dtype=[("x", "f4"), ("y", "S3")]))),
    "npy of text": ("npy", npy(np.array(["ab", "c"]))),
    "npz": ("npz", written(lambda buffer: np.savez(buffer, a=np.ones(3), b=np.zeros((2, 2))))),
    "npz compressed": ("npz", written(lambda b: np.savez_compressed(b, a=np.zeros(3_000_000)))),
    "parquet": ("parquet", TABLE.to_parquet()),
    "parquet compressed": ("parquet", TABLE.to_parquet(compression="zstd")),
    "json": ("json", b'{"layers": [1, 2], "name": "x"}'),
    "json as an array": ("json", b"\n[1, 2, 3]\n"),
    "json with a pickle's letters": ("json", b'["cos\\nsystem\\n(S\'id\'\\ntR."]'),
    "onnx": ("onnx", ONNX),
    "csv": ("csv", TABLE.to_csv(index=False).encode()),
    "csv with semicolons inside quotes": ("csv", b'a,b\n"x;1","y,2"\n'),
    "text": ("text", b"# Card\n\nWhat it reads: digits.\n"),
    "text in other scripts": ("text", "Grüße, 你好 🙂\n".encode()),
    "text in other scripts at a block's edge": ("text", b"a" * (2**20 - 1) + "é".encode()),
    "nothing": ("text", b""),
}  # fmt: skip


@pytest.mark.parametrize("kind, data", BENIGN.values(), ids=BENIGN)
def test_plain_files_are_known_by_their_content(kind: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.exe"
    path.write_bytes(data)

    assert inspect(path) == safety.Inspection(kind)
    assert safety_finding(tmp_path, FORMATS).passed


def test_a_finding_says_what_each_file_is(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/model.safetensors").write_bytes(save(TENSORS))
    (tmp_path / "card.md").write_text("A card.")
    finding = safety_finding(tmp_path, ["safetensors", "text"])

    assert finding.passed
    assert finding.gate == "safety"
    assert finding.reasons == ("2 files, all of safetensors, text",)
    assert finding.evidence == {
        "files": {"card.md": "text", "deep/model.safetensors": "safetensors"}
    }


def test_a_sound_file_of_a_format_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("A card.")
    finding = safety_finding(tmp_path, ["safetensors"])

    assert not finding.passed
    assert finding.reasons == ("card.md is text, and only safetensors may be served",)


def test_no_files_are_refused(tmp_path: Path) -> None:
    assert safety_finding(tmp_path, FORMATS).reasons == ("the model has no files",)


def test_a_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    target = tmp_path / "card.md"
    target.write_text("A card.")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    finding = safety_finding(tmp_path, FORMATS)

    assert "link: it is a link or a device" in finding.reasons
    assert "folder: it is a link or a device" in finding.reasons


def test_many_problems_are_counted_and_not_all_told(tmp_path: Path) -> None:
    for index in range(50):
        (tmp_path / f"{index:02}").write_bytes(b"\0")
    finding = safety_finding(tmp_path, FORMATS)

    assert len(finding.reasons) == safety.MAX_REASONS + 1
    assert finding.reasons[-1] == "30 more problems"


A = tensor(0, 4)
WRONG_TENSORS = {
    "overlap": tensors({"a": A, "b": tensor(2, 6)}, bytes(6)),
    "the same bytes twice": tensors({"a": A, "b": A}, bytes(4)),
    "gap": tensors({"a": A, "b": tensor(5, 8)}, bytes(8)),
    "gap at the start": tensors({"a": tensor(1, 4)}, bytes(4)),
    "bytes behind the last": tensors({"a": A}, bytes(5)),
    "too few bytes": tensors({"a": A}, bytes(3)),
    "bytes without tensors": tensors({}, bytes(1)),
    "size that wraps": tensors({"a": tensor(0, 0, [2**32, 2**32])}, b""),
    "size that wraps to what is there": tensors({"a": tensor(0, 4, [2**62 + 1, 4])}, bytes(4)),
    "offsets backwards": tensors({"a": tensor(4, 0, [0])}, bytes(4)),
    "negative offset": tensors({"a": tensor(-4, 0, [4])}, bytes(4)),
    "negative shape": tensors({"a": tensor(0, 4, [-2, -2])}, bytes(4)),
    "shape of another size": tensors({"a": tensor(0, 4, [5])}, bytes(4)),
    "shape of text": tensors({"a": tensor(0, 4, ["4"])}, bytes(4)),
    "shape of truth": tensors({"a": tensor(0, 1, [True])}, bytes(1)),
    "offsets of fractions": tensors({"a": tensor(0, 4) | {"data_offsets": [0, 4.0]}}, bytes(4)),
    "three offsets": tensors({"a": tensor(0, 4) | {"data_offsets": [0, 4, 4]}}, bytes(4)),
    "unknown type": tensors({"a": tensor(0, 4, dtype="P8")}, bytes(4)),
    "type that is no text": tensors({"a": tensor(0, 4, dtype=["U8"])}, bytes(4)),
    "unknown field": tensors({"a": A | {"more": 1}}, bytes(4)),
    "missing field": tensors({"a": {"dtype": "U8", "shape": [4]}}, bytes(4)),
    "tensor that is no object": tensors({"a": 4}, bytes(4)),
    "name twice": tensors(b'{"a": %b, "a": %b}' % ((json.dumps(A).encode(),) * 2), bytes(4)),
    "metadata of numbers": tensors({"__metadata__": {"a": 1}, "a": A}, bytes(4)),
    "metadata of a list": tensors({"__metadata__": [], "a": A}, bytes(4)),
    "header that is no JSON": tensors(b"{'a': 1}", b""),
    "header that is not UTF-8": tensors(b'{"\xff": 1}', b""),
    "header cut short": tensors(b'{"a": ', b""),
    "header with something behind it": tensors(b"{}{}", b""),
    "header with depth": tensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
}


@pytest.mark.parametrize("data", WRONG_TENSORS.values(), ids=WRONG_TENSORS)
def test_safetensors_that_do_not_add_up_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    inspection = inspect(tmp_path / "model.safetensors")

    assert inspection.format == "safetensors"
    assert inspection.problems
    assert not safety_finding(tmp_path, FORMATS).passed


def test_a_header_that_is_longer_than_its_file_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")

    assert inspect(tmp_path / "model.safetensors").format == "unknown"


def test_a_header_above_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_SAFETENSORS_HEADER", 10)
    (tmp_path / "model.safetensors").write_bytes(save(TENSORS))

    assert inspect(tmp_path / "model.safetensors").problems


PAYLOAD = b"cos\nsystem\n(S'id'\ntR."


def npy_with_header(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def npy_of(descr: str, shape: str, data: bytes = b"x") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    return npy_with_header(header, data)


OBJECTS = written(lambda buffer: np.save(buffer, np.array([{}], dtype=object), allow_pickle=True))
WRONG_FILES = {
    "npy of objects": OBJECTS,
    "npy of objects in a record": npy(np.zeros(1, dtype=[("a", "f4")])).replace(b"<f4", b"|O8"),
    "npy that is cut": npy(np.ones(9))[:-1],
    "npy with more": npy(np.ones(9)) + PAYLOAD,
    "npy with a call in its header": npy_with_header("__import__('os').system('id')"),
    "npy with a long header": npy_with_header("{" + " " * 20_000 + "}"),
    "npy with a shape that wraps": npy_of("<f8", f"({2**61},)", b""),
    "npy with a negative shape": npy_of("|u1", "(-1, -1)"),
    "npy with a shape of truth": npy_of("|u1", "(True,)"),
    "npy with more fields": npy_of("|u1", "(1,), 'x': 1"),
    "npy of a later version": npy_of("|u1", "(1,)").replace(b"\x01\x00", b"\x04\x00", 1),
    "npy with an unknown type": npy_of("?!", "(1,)"),
    "npz with objects": zipped({"a.npy": OBJECTS}),
    "npz with a pickle": zipped({"a.npy": npy(np.ones(1)), "b.npy": PAYLOAD}),
    "zip with a pickle": zipped({"weights.bin": pickle.dumps([1])}),
    "zip of texts": zipped({"a.txt": b"text"}),
    "an empty zip": zipped({}),
    "parquet that is cut": TABLE.to_parquet()[:-1],
    "parquet with more": TABLE.to_parquet() + b"x",
    "parquet without rows or reason": b"PAR1PAR1",
    "parquet with a footer that is too long": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
    "parquet with a footer of nothing": b"PAR1" + b"\0" * 20 + struct.pack("<I", 20) + b"PAR1",
    "onnx that is cut": ONNX[:-1],
    "onnx with more": ONNX + b"\xff",
    "onnx with an unknown field": ONNX + b"\x7a\x00",
    "onnx without a graph": b"\x08\x0e\x42\x02\x10\x1c",
    "onnx with a tensor outside": ONNX.replace(b"J\x18" + bytes(8), b"j\x18" + bytes(8)),
    "onnx with a group": ONNX + b"\x3b",
    "onnx whose graph is a number": ONNX + b"\x38\x01",
    "onnx with a number without end": ONNX + b"\x08" + b"\xff" * 12,
    "text with a control character": b"fine\x1b[31m",
    "text that is not UTF-8": b"\xff\xfetext",
    "text that ends in the middle of a character": "é".encode()[:1],
    "a program": b"\x7fELF" + bytes(60),
    "gzip": zlib.compress(b"x", wbits=31),
    "zlib, as joblib writes": zlib.compress(pickle.dumps([1])),
    "bzip2": b"BZh91AY&SY" + bytes(20),
    "xz": b"\xfd7zXZ\x00" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "gguf": b"GGUF" + bytes(20),
    "tar": bytes(257) + b"ustar" + bytes(250),
    "one byte": b"\x80",
    "noise": bytes(range(256)) * 4,
}  # fmt: skip


@pytest.mark.parametrize("data", WRONG_FILES.values(), ids=WRONG_FILES)
def test_files_that_are_not_whole_or_not_known_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(data)

    assert not safety_finding(tmp_path, FORMATS).passed


@pytest.mark.parametrize("name", ["model.json", "model.bin", "model.safetensors", "model.txt"])
@pytest.mark.parametrize(
    "data",
    [
        PAYLOAD,
        PAYLOAD[:-1],
        PAYLOAD + b"\n\nand then some text",
        b"(S'id'\nios\nsystem\n.",
        b"N0" + PAYLOAD,
        b"Vsome text\n0" + PAYLOAD + b"\n",
    ],
)
def test_a_payload_in_plain_text_is_refused_under_any_name(
    name: str, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)

    assert not safety_finding(tmp_path, FORMATS).passed


def test_sound_safetensors_that_are_a_pickle_too_are_refused(tmp_path: Path) -> None:
    # The header's length reads as an opcode that skips to the text in the metadata, and that
    # text is a call without a control character in it.
    start = b'{"__metadata__":{"a":"'
    module, name = b"multiprocessing.popen_spawn_posix", b"thing_with_a_name_of_32_letters_"
    call = b"U!" + module + b"U " + name + b"q\xc2\x93)R."
    skipped = 6 + len(start)
    length = ord("U") + 256 * skipped
    header = start + call + b'"},"x":' + json.dumps(tensor(0, 4)).encode() + b"}"
    data = tensors(header.ljust(length), bytes(4))
    (tmp_path / "model.safetensors").write_bytes(data)

    assert list(load(data)) == ["x"]
    assert real_loader(data)[1] == {f"{module.decode()} {name.decode()}"}
    assert inspect(tmp_path / "model.safetensors") == safety.Inspection(
        "safetensors", ("a loader of pickles would run it",)
    )


def test_a_zip_archive_behind_another_file_is_refused(tmp_path: Path) -> None:
    data = zipped({"a.npy": npy(np.ones(1))})
    header = {"a": tensor(0, len(data))}
    (tmp_path / "model.safetensors").write_bytes(tensors(header, data))

    assert inspect(tmp_path / "model.safetensors").problems == ("it is also a zip archive",)


TORCH_PICKLE = (
    b"\x80\x02}q\x00X\x06\x00\x00\x00weightq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02"
    b"((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05"
    b"X\x03\x00\x00\x00cpuq\x06K\x04tq\x07QK\x00K\x02K\x02\x86q\x08K\x02K\x01\x86q\t\x89"
    b"ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
)
TORCH = {
    "model/data.pkl": TORCH_PICKLE,
    "model/byteorder": b"little",
    "model/data/0": bytes(16),
    "model/version": b"3\n",
    "model/.data/serialization_id": b"0123",
}


def test_a_torch_archive_is_refused_unless_the_policy_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(zipped(TORCH))

    assert inspect(tmp_path / "model.pt") == safety.Inspection("torch")
    assert safety_finding(tmp_path, ["torch"]).passed
    assert not safety_finding(tmp_path, FORMATS).passed


@pytest.mark.parametrize(
    "data",
    [
        zipped(TORCH | {"model/data.pkl": PAYLOAD}),
        zipped(TORCH | {"model/data.pkl": TORCH_PICKLE + PAYLOAD}),
        zipped(TORCH | {"model/code/__torch__.py": b"import os"}),
        zipped(TORCH | {"model/constants.pkl": pickle.dumps(1)}),
        zipped(TORCH | {"other/data.pkl": TORCH_PICKLE}),
        zipped(TORCH | {"model/version": b"\0"}),
        zipped({"data.pkl": PAYLOAD}),
    ],
    ids=["payload", "payload behind", "code", "second pickle", "two", "version", "flat"],
)
def test_a_torch_archive_with_more_than_tensors_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(data)

    assert inspect(tmp_path / "model.pt").problems
    assert not safety_finding(tmp_path, ["torch", "pickle"]).passed


ARRAY = npy(np.ones(4))
SOUND = zipped({"a.npy": ARRAY, "b.npy": ARRAY})
SECOND = SOUND.index(b"PK\x03\x04", 4)
DIRECTORY = SOUND.index(b"PK\x01\x02")


def patched(*patches: tuple[int, bytes]) -> bytes:
    data = bytearray(SOUND)
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    return bytes(data)


def with_one_name_twice() -> bytes:
    data = zipped({"a.npy": ARRAY, "A.npy": ARRAY})
    return data.replace(b"A.npy", b"a.npy")


def with_info(change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            info = zipfile.ZipInfo("a.npy")
            change(info)
            archive.writestr(info, ARRAY)

    return written(write)


def as_link(info: zipfile.ZipInfo) -> None:
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


WRONG_ZIPS = {
    "bytes before": b"x" * 10 + SOUND,
    "bytes behind": SOUND + b"x",
    "a comment": SOUND[:-2] + b"\x03\x00abc",
    "encrypted by flag": patched((DIRECTORY + 8, b"\x01\x00")),
    "encrypted by both flags": patched((DIRECTORY + 8, b"\x01\x00"), (6, b"\x01\x00")),
    "flag in one place": patched((6, b"\x01\x00")),
    "method in one place": patched((8, b"\x08\x00")),
    "size in one place": patched((22, b"\x01\x00\x00\x00")),
    "another checksum": patched((DIRECTORY + 16, b"\0\0\0\0")),
    "another checksum in both": patched((DIRECTORY + 16, b"\1\2\3\4"), (14, b"\1\2\3\4")),
    "changed content": patched((SECOND - 1, b"\xff")),
    "another name in one place": patched((30, b"z")),
    "an unknown method": patched((DIRECTORY + 10, b"\x63\x00")),
    "a member that is not listed": SOUND[:DIRECTORY] + SOUND[:SECOND] + SOUND[DIRECTORY:],
    "a hidden run of bytes": SOUND[:SECOND] + b"hidden" + SOUND[SECOND:],
    "a missing directory": SOUND[:DIRECTORY],
    "one name twice": with_one_name_twice(),
    "a way up": zipped({"../a.npy": ARRAY}),
    "a way up inside": zipped({"a/../../b.npy": ARRAY}),
    "an absolute name": zipped({"/a.npy": ARRAY}),
    "a drive": zipped({"c:a.npy": ARRAY}),
    "a backslash": zipped({"a\\b.npy": ARRAY}),
    "an empty part": zipped({"a//b.npy": ARRAY}),
    "a link": with_info(as_link),
    "too deep": zipped({"a": zipped({"b": zipped({"c": zipped({"d.npy": ARRAY})})})}),
}  # fmt: skip


@pytest.mark.parametrize("data", WRONG_ZIPS.values(), ids=WRONG_ZIPS)
def test_an_archive_with_two_readings_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "arrays.npz").write_bytes(data)

    assert not safety_finding(tmp_path, [*FORMATS, "zip"]).passed


def test_the_archive_that_was_changed_for_these_is_sound(tmp_path: Path) -> None:
    (tmp_path / "arrays.npz").write_bytes(patched())

    assert safety_finding(tmp_path, FORMATS).passed


def test_a_streamed_archive_is_read_as_it_was_written(tmp_path: Path) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.npy", "b.npy"):
            with archive.open(name, "w", force_zip64=name == "b.npy") as member:
                member.write(ARRAY)
    (tmp_path / "arrays.npz").write_bytes(stream.getvalue())

    assert inspect(tmp_path / "arrays.npz") == safety.Inspection("npz")


@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_that_unpacks_to_too_much_is_refused(
    nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "MAX_UNPACKED", 2**20)
    bomb = zipped({"a.txt": b"0" * 2**22}, zipfile.ZIP_DEFLATED)
    (tmp_path / "a.zip").write_bytes(zipped({"inner": bomb}) if nested else bomb)

    finding = safety_finding(tmp_path, [*FORMATS, "zip"])

    assert any("it unpacks to too much" in reason for reason in finding.reasons)


def test_an_archive_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "MAX_MEMBERS", 1)
    (tmp_path / "a.npz").write_bytes(SOUND)

    assert inspect(tmp_path / "a.npz").problems == (
        "it cannot be read as zip: it has more than 1 members",
    )


def test_an_archive_may_hold_only_what_may_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"b": zipped({"c": pickle.dumps([1]), "d": b"x"})}))
    finding = safety_finding(tmp_path, ["zip", "text"])

    assert finding.reasons == ("a.zip holds pickle, and only text, zip may be served",)
    assert safety_finding(tmp_path, ["zip", "text", "pickle"]).passed


def test_a_pickle_deep_in_archives_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(zipped({"b": zipped({"c.json": PAYLOAD})}))
    finding = safety_finding(tmp_path, [*FORMATS, "zip", "pickle"])

    assert finding.reasons == ("a: b: c.json: asks for os.system",)


SAMPLES = {name: data for name, (_, data) in BENIGN.items() if data} | {
    "sound": SOUND,
    "torch": zipped(TORCH),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(SAMPLES)), at=st.integers(0, 2**32), noise=st.binary(max_size=8))
def test_damaged_files_are_judged_and_never_raise(
    kind: str, at: int, noise: bytes, tmp_path: Path
) -> None:
    data = SAMPLES[kind]
    at %= len(data)
    path = tmp_path / "file"
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])

    assert inspect(path).format


@given(at=st.integers(0, 250), noise=st.binary(max_size=3))
def test_safetensors_that_are_accepted_can_be_loaded(at: int, noise: bytes) -> None:
    data = save(TENSORS)
    data = data[:at] + noise + data[at + len(noise) :]
    try:
        formats.check_safetensors(io.BytesIO(data), len(data))
    except ValueError:
        return

    assert load(data).keys() == json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).keys()
