"""Crafted pickles are refused, plain ones are not, and nothing of either is ever run."""

import collections
import io
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.gates import pickles
from artifact_pipelines.gates.safety import inspect, safety_finding

ALLOWING = ("pickle", "torch", "json", "text", "csv")


class _Watch:
    """What the interpreter reports while it is watched."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        told = ("exec", "os.", "pickle.", "runpy.", "socket.", "subprocess.", "code.", "urllib.")
        if self.on and event.startswith(told) and event not in QUIET:
            self.seen.append(event)

    @contextmanager
    def __call__(self) -> Iterator[list[str]]:
        self.seen.clear()
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False


QUIET = {"os.listdir", "os.scandir", "os.remove"}
watch = _Watch()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def by_global(module: str, name: str, argument: str = "id") -> bytes:
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


def by_stack(module: str, name: str, argument: str = "id") -> bytes:
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(argument) + b"\x85R."


def by_memo(module: str, name: str, argument: str = "id") -> bytes:
    kept = short(name) + b"\x940" + short(module) + b"\x940"
    return b"\x80\x04" + kept + b"h\x01h\x00\x93" + short(argument) + b"\x85R."


def by_instance(module: str, name: str, argument: str = "id") -> bytes:
    return f"(S'{argument}'\ni{module}\n{name}\n.".encode()


def by_object(module: str, name: str, argument: str = "id") -> bytes:
    return b"\x80\x02(" + f"c{module}\n{name}\n".encode() + short(argument) + b"o."


def by_new(module: str, name: str, argument: str = "id") -> bytes:
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + short(argument) + b"\x85\x81."


def by_new_with_keywords(module: str, name: str, argument: str = "id") -> bytes:
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(argument) + b"\x85}\x92."


def by_state(module: str, name: str, argument: str = "id") -> bytes:
    made = b"ccollections\nOrderedDict\n)R"
    return made + f"c{module}\n{name}\n".encode() + f"S'{argument}'\n".encode() + b"\x85Rb."


def behind_a_number(module: str, name: str, argument: str = "id") -> bytes:
    return b"I0x10\n0" + by_global(module, name, argument)


def behind_escaped_text(module: str, name: str, argument: str = "id") -> bytes:
    return b"S'\\xc3\\xa9'\n0" + by_global(module, name, argument)


def never_called(module: str, name: str, argument: str = "id") -> bytes:
    del argument
    return f"c{module}\n{name}\n.".encode()


FORMS = (
    by_global,
    by_stack,
    by_memo,
    by_instance,
    by_object,
    by_new,
    by_new_with_keywords,
    by_state,
    behind_a_number,
    behind_escaped_text,
)
TARGETS = (
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("runpy", "_run_code"),
    ("pip", "main"),
    ("pydoc", "locate"),
    ("pydoc", "pipepager"),
    ("timeit", "timeit"),
    ("importlib", "import_module"),
    ("dill", "loads"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("pkgutil", "resolve_name"),
    ("subprocess", "Popen"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("types", "CodeType"),
    ("codecs", "decode"),
    ("cProfile", "run"),
    ("bdb", "Bdb"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.hub", "load"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "getlincoef"),
    ("unheard_of", "anything"),
)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("target", TARGETS, ids=".".join)
def test_a_pickle_that_calls_something_is_refused_and_not_run(
    form: Any,  # noqa: ANN401
    target: tuple[str, str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(form(*target, "touch " + "x" * 20))
    with watch() as seen:
        finding = safety_finding(tmp_path, ALLOWING)

    assert not finding.passed
    assert any(f"asks for {'.'.join(target)}" in reason for reason in finding.reasons)
    assert not seen


def test_the_watch_sees_what_a_loader_does() -> None:
    with watch() as seen:
        pickle.loads(b"ccollections\nOrderedDict\n)R.")  # noqa: S301 (it is empty)

    assert seen == ["pickle.find_class"]


@pytest.mark.parametrize("target", TARGETS, ids=".".join)
def test_a_thing_that_is_only_imported_is_refused_too(target: tuple[str, str]) -> None:
    data = never_called(*target)

    assert problems(data) == [f"asks for {'.'.join(target)}"]


CRAFTED = {
    "broken behind the payload": by_global("os", "system")[:-1] + b"\xff\xff",
    "cut short behind the payload": by_global("os", "system")[:-1],
    "broken behind a stacked payload": by_stack("os", "system")[:-1] + b"X\xff\xff\xff\xff",
    "a second pickle behind a plain one": pickle.dumps([1]) + by_global("os", "system"),
    "bytes behind the end": pickle.dumps([1]) + b"\0",
    "no end": pickle.dumps([1])[:-1],
    "nothing but a protocol": b"\x80\x04",
    "a later protocol": b"\x80\x06N.",
    "an extension code": b"\x80\x02\x82\x01)R.",
    "a wide extension code": b"\x80\x02\x84\x01\0\0\0.",
    "an outside buffer": b"\x80\x05\x97.",
    "an outside object by line": b"Pcar\n.",
    "an outside object by value": b"\x80\x02K\x01Q.",
    "a name that is made": b"\x80\x04ccollections\nOrderedDict\n)R" + short("x") + b"\x93.",
    "a name that is too long": b"\x80\x04X\x2c\x01\0\0" + b"a" * 300 + short("x") + b"\x93.",
    "a name that is not plain": b"\x80\x04" + short("o\u017f") + short("system") + b"\x93)R.",
    "a name of two lines in bytes": b"c\xff\nx\n.",
    "an allowed name with a space moved": b"ccollections OrderedDict\n\n.",
    "an attribute of an allowed name": b"\x80\x04"
    + short("collections")
    + short("OrderedDict.fromkeys")
    + b"\x93.",
    "a made thing is called": b"ccollections\nOrderedDict\n)R)R.",
    "an imported thing is changed": b"ccollections\nOrderedDict\n}b.",
    "an imported thing is filled": b"ccollections\nOrderedDict\nNNs.",
    "an odd encoding": b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    "an encoding that is hidden": b"c_codecs\nencode\n(S'x'\nNtR.",
    "a memory that is too large": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a value that claims too much": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "an empty stack": b"\x80\x02R.",
    "a mark that is missing": b"\x80\x02t.",
    "a plain value is called": b"\x80\x02N)R.",
    "a plain value is filled": b"\x80\x02NNa.",
    "a call without arguments": b"ccollections\nOrderedDict\nK\x01R.",
    "a call with a list": b"cos\nsystem\n]S'id'\naR.",
    "a state on a plain value": b"\x80\x02}}b.",
    "an import behind an empty state": b")2bcunheard\nof\n.",
    "an import behind an empty filling": b"N(ucunheard\nof\n.",
    "a memory that was not kept": b"\x80\x02h\x05.",
    "a number that is none": b"Iabc\n.",
    "an index that is none": b"\x80\x02Np\n.",
    "a text without quotes": b"Sabc\n.",
    "a long number that is cut": b"\x80\x02\x8a\x05ab",
    "an object without a class": b"\x80\x02(o.",
    "a name by number": b"\x80\x04K\x01" + short("x") + b"\x93.",
}


@pytest.mark.parametrize("data", CRAFTED.values(), ids=CRAFTED)
def test_a_pickle_that_cannot_be_followed_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(data)
    with watch() as seen:
        finding = safety_finding(tmp_path, ["pickle"])

    assert problems(data)
    assert not finding.passed
    assert not seen


BENIGN: dict[str, object] = {
    "plain values": [None, True, 1, 2**70, -1.5, "text", b"bytes", (1, 2, 3, 4), {"a": {}}],
    "sets": {"set": {1, 2}, "frozen": frozenset({3})},
    "an ordered dict": collections.OrderedDict(a=1, b=[2]),
    "a complex number": 1j,
    "one list twice": [[1]] * 2,
    "an array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a structured array": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "a number of numpy": np.float64(1.5),
    "state of a model": {"weights": {"w": np.ones((2, 2))}, "step": 3, "lr": 0.1},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", BENIGN.values(), ids=BENIGN)
def test_plain_data_is_accepted_where_pickles_are(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)

    assert problems(data) == []


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_that_is_cut_anywhere_is_refused(protocol: int) -> None:
    data = pickle.dumps(BENIGN["plain values"], protocol=protocol)

    assert all(problems(data[:end]) for end in range(len(data)))


def test_an_accepted_pickle_is_refused_where_pickles_are_not(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps({"w": 1}))
    finding = safety_finding(tmp_path, ["safetensors", "json"])

    assert finding.reasons == (
        "weights.safetensors is pickle, and only json, safetensors may be served",
    )


def test_a_pickle_that_is_too_large_is_refused() -> None:
    trace = pickles.trace(io.BytesIO(b"N."), 2)

    assert trace.problems(pickles.MAX_SIZE + 1)[0] == f"is larger than {pickles.MAX_SIZE} bytes"


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)

    assert problems(b"N0" * 40 + b"N.") == []
    assert "has more than 100 opcodes" in problems(b"N0" * 60 + b"N.")


FRAGMENTS = (
    b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"ios\nsystem\n",
    b"(", b")", b"]", b"}", b"\x8f", b"N", b"\x88", b"I1\n", b"I0x1\n", b"I01\n", b"K\x01",
    b"L2L\n", b"F1\n", b"S'os'\n", b'S"latin1"\n', b"S'\\x41'\n", b"Vos\n", b"\x8c\x02os",
    b"\x8c\x06system", b"U\x02os", b"B\x01\0\0\0x", b"\x93", b"\x94", b"h\x00", b"h\x01",
    b"q\x00", b"q\x01", b"p1\n", b"g1\n", b"j\0\0\0\0", b"r\x01\0\0\0", b"t", b"\x85", b"\x86",
    b"\x87", b"l", b"d", b"\x91", b"a", b"e", b"s", b"u", b"\x90", b"0", b"1", b"2", b"R", b"b",
    b"o", b"\x81", b"\x92", b"P1\n", b"Q", b"\x82\x01", b"\x97", b"\x98", b"\x80\x02",
    b"\x95\x04\0\0\0\0\0\0\0", b".", b"\xff", b"I1\0x\n", b"p1\0x\n", b"S'a' \n", b"I+1\n",
)  # fmt: skip


class _Made:
    """An object that takes whatever a loader does to it."""

    def take(self, *_: object) -> None:
        """Take it."""

    __setstate__ = __setitem__ = append = extend = add = take


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join))
def test_whatever_a_real_loader_asks_for_or_calls_was_foretold(data: bytes) -> None:
    asked, called = real_loader(data)
    trace = pickles.trace(io.BytesIO(data), len(data))

    assert asked <= trace.imports.keys() or trace.broken in trace.refusals
    assert not called or trace.acts
    if not trace.problems(len(data)):
        assert called <= asked <= pickles.ALLOWED


def test_the_real_loader_of_the_law_does_load() -> None:
    assert real_loader(by_global("os", "system")) == ({"os system"}, {"os system"})


def real_loader(data: bytes) -> tuple[set[str], set[str]]:
    """Return what Python's own loader asks for and calls, given harmless things instead."""
    asked: set[str] = set()
    called: set[str] = set()

    class Loader(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> object:
            asked.add(f"{module} {name}")

            class Stub(_Made):
                def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401
                    called.add(f"{module} {name}")
                    return _Made()

            return Stub

    try:
        Loader(io.BytesIO(data), fix_imports=False).load()
    except Exception:  # noqa: BLE001
        return asked, called
    return asked, called


@given(st.binary(max_size=200), st.sampled_from([pickle.dumps(one) for one in BENIGN.values()]))
def test_mutated_pickles_never_raise(noise: bytes, data: bytes) -> None:
    at = len(noise) % len(data)
    for mutated in (noise, data[:at] + noise + data[at:], data[:at] + noise):
        trace = pickles.trace(io.BytesIO(mutated), len(mutated))

        assert trace.imports.keys() <= pickles.ALLOWED or trace.problems(len(mutated))


def problems(data: bytes) -> list[str]:
    return pickles.trace(io.BytesIO(data), len(data)).problems(len(data))


def test_a_text_that_only_looks_like_opcodes_is_a_text(tmp_path: Path) -> None:
    for index, text in enumerate(
        [
            "column_a,column_b\n1,2\nRow,3\n",
            "If you can\nRead this\n",
            "pixel_00,pixel_01\n0,1\n",
            "Python is\nNamed after\na comedy\n",
            "(in short\nnot a pickle\n",
            "Some text\n",
            "c\n",
            "Let us\nlook\n",
            "From here\n",
            "get\nput\n",
            "",
        ]
    ):
        path = tmp_path / f"{index}.txt"
        path.write_text(text)

        assert inspect(path).format in {"text", "csv"}
        assert inspect(path).problems == ()
