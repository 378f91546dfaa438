"""What a pickle would do, told from its opcodes without doing any of it.

The opcodes are followed on a stack of stand-ins. Nothing is imported, nothing is called, and
no object is built. Whatever cannot be followed is refused, for a loader might.
"""

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

ALLOWED: Final = frozenset(
    {
        "__builtin__ complex",
        "__builtin__ frozenset",
        "__builtin__ set",
        "_codecs encode",
        "builtins complex",
        "builtins frozenset",
        "builtins set",
        "collections OrderedDict",
        "numpy dtype",
        "numpy ndarray",
        "numpy._core.multiarray _reconstruct",
        "numpy._core.multiarray scalar",
        "numpy._core.numeric _frombuffer",
        "numpy.core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
        "numpy.core.numeric _frombuffer",
        "torch BFloat16Storage",
        "torch BoolStorage",
        "torch ByteStorage",
        "torch CharStorage",
        "torch DoubleStorage",
        "torch FloatStorage",
        "torch HalfStorage",
        "torch IntStorage",
        "torch LongStorage",
        "torch ShortStorage",
        "torch Size",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
    }
)
"""The only things that a pickle may ask for, as module and name: data, and what holds data."""

MAX_SIZE: Final = 256 * 1024 * 1024
MAX_OPCODES: Final = 2_000_000
MAX_PROTOCOL: Final = 5

_OPCODES: Final = {one.code.encode("latin-1"): one for one in pickletools.opcodes}
_CODECS: Final = frozenset({"latin-1", "latin1"})
_LONGEST_NAME: Final = 256


@dataclass(slots=True)
class Trace:
    """What a pickle would do.

    Attributes:
        imports: What it asks for, as module and name with a space between.
        calls: What it calls.
        refusals: What it does that is not followed, one clause each.
        persistent: Whether it points at objects outside of itself.
        acts: Whether an ordinary loader would run something before it stopped.
        broken: Why no loader could go on, where that is so.
        end: The offset behind its last opcode, where it has one.
    """

    imports: dict[str, None] = field(default_factory=dict)
    calls: dict[str, None] = field(default_factory=dict)
    refusals: dict[str, None] = field(default_factory=dict)
    persistent: bool = False
    acts: bool = False
    broken: str | None = None
    end: int | None = None

    def problems(self, size: int, *, persistent: bool = False) -> list[str]:
        """Return why a file of this size must not be unpickled; an empty list if it may.

        Args:
            size: The number of bytes in the file.
            persistent: Whether its format keeps objects outside of the pickle, as torch does.
        """
        found = [
            f"asks for {'.'.join(name.split(' ', 1))}"
            for name in self.imports
            if name not in ALLOWED
        ]
        found += self.refusals
        if size > MAX_SIZE:
            found.append(f"is larger than {MAX_SIZE} bytes")
        if self.persistent and not persistent:
            found.append("points at objects outside of itself")
        if self.broken is not None:
            found.append(f"cannot be read to its end: {self.broken}")
        elif self.end != size:
            found.append(f"has {size - (self.end or 0)} bytes behind its end")
        return found

    def refuse(self, clause: str) -> None:
        """Note something that is not followed.

        An ordinary loader knows nothing outside of a pickle and stops where it points there,
        so what comes behind that acts only on loaders that read the format they expect.
        """
        self.refusals[clause] = None
        self.acts = self.acts or not self.persistent


def trace(file: BinaryIO, size: int) -> Trace:
    """Return what unpickling the bytes of a file from its present position would do."""
    machine = _Machine()
    try:
        machine.run(_Window(file, size))
    except _BrokenError as error:
        machine.seen.broken = str(error)
    except _RefusedError as error:
        machine.seen.refuse(str(error))
        machine.seen.broken = str(error)
    return machine.seen


class _BrokenError(Exception):
    """A point where every loader stops."""


class _RefusedError(Exception):
    """A point where a loader may go on and this reading does not."""


class _Window:
    """A file that never yields, nor reserves memory for, more than it holds."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self.offset = 0

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        if count > self._left:
            raise _BrokenError("it ends in the middle")
        if count > MAX_SIZE:
            raise _RefusedError("holds a value that is too large")
        data = self._file.read(count)
        self._advance(len(data))
        return data

    def readline(self) -> bytes:
        """Return the bytes up to a line feed, without it."""
        line = self._file.readline(min(self._left, MAX_SIZE))
        self._advance(len(line))
        if not line.endswith(b"\n"):
            raise _BrokenError("it ends in the middle")
        return line[:-1]

    def _advance(self, count: int) -> None:
        self._left -= count
        self.offset += count


class _Unknown:
    """A plain value that does not matter: a number, a long text, bytes."""


class _Container:
    """A list, dict or set that the pickle itself fills."""


class _Made:
    """What a call would give back."""


class _Outside:
    """An object that the pickle points at and does not hold."""


@dataclass(frozen=True, slots=True)
class _Import:
    """A thing that a loader would import."""

    name: str


_UNKNOWN: Final = _Unknown()
_MADE: Final = _Made()
_OUTSIDE: Final = _Outside()
_CONTAINER: Final = _Container()
_FILLABLE: Final = (_Container, _Made)
_CALLABLE: Final = (_Import, _Made, _Outside)


class _Machine:
    """The stack, marks and memo of a loader, filled with stand-ins."""

    def __init__(self) -> None:
        self.seen = Trace()
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def run(self, window: _Window) -> None:
        """Follow every opcode up to the end."""
        for _ in range(MAX_OPCODES):
            code = window.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise _BrokenError(f"byte {code.hex()} at {window.offset - 1} is no opcode")
            argument = _argument(opcode, window)
            if opcode.name == "STOP":
                self._pop()
                self.seen.end = window.offset
                return
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                raise _BrokenError(f"it uses the opcode {opcode.name}")
            handler(self, argument)
        raise _RefusedError(f"has more than {MAX_OPCODES} opcodes")

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def mark(self, _: object) -> None:
        """Begin a group of values."""
        self._marked.append(self._stack)
        self._stack = []

    def pop(self, _: object) -> None:
        """Drop the topmost value, or the mark if nothing lies on it."""
        if self._stack:
            self._stack.pop()
        else:
            self._group()

    def pop_mark(self, _: object) -> None:
        """Drop the values of a group."""
        self._group()

    def dup(self, _: object) -> None:
        """Put the topmost value there twice."""
        self.push(self._top())

    def remember(self, index: object) -> None:
        """Keep the topmost value under a number."""
        if not isinstance(index, int) or not 0 <= index <= MAX_OPCODES:
            raise _BrokenError("it numbers its memory in an odd way")
        self._memo[index] = self._top()

    def memoize(self, _: object) -> None:
        """Keep the topmost value under the next number."""
        self._memo[len(self._memo)] = self._top()

    def recall(self, index: object) -> None:
        """Put a value that was kept on the stack."""
        if not isinstance(index, int) or index not in self._memo:
            raise _BrokenError("it asks for what it has not kept")
        self.push(self._memo[index])

    def container(self, _: object) -> None:
        """Put an empty list, dict or set on the stack."""
        self.push(_CONTAINER)

    def gather(self, _: object) -> None:
        """Make a list, dict or frozen set of a group."""
        self._group()
        self.push(_CONTAINER)

    def empty_tuple(self, _: object) -> None:
        """Put an empty tuple on the stack."""
        self.push(())

    def group_tuple(self, _: object) -> None:
        """Make a tuple of a group."""
        self.push(tuple(self._group()))

    def short_tuple(self, length: int) -> None:
        """Make a tuple of the topmost values."""
        items = [self._pop() for _ in range(length)]
        self.push(tuple(reversed(items)))

    def fill(self, count: int) -> None:
        """Put the topmost values into the list, dict or set below them."""
        for _ in range(count):
            self._pop()
        self._check_fillable()

    def fill_group(self, _: object) -> None:
        """Put a group into the list, dict or set below it."""
        self._group()
        self._check_fillable()

    def ask(self, pair: object) -> None:
        """Import what two lines name."""
        self.push(self._import(*_texts(pair)))

    def ask_stack(self, _: object) -> None:
        """Import what the two topmost values name."""
        name, module = self._pop(), self._pop()
        if isinstance(name, str) and isinstance(module, str):
            self.push(self._import(module, name))
        elif isinstance(name, _Unknown | _Made) or isinstance(module, _Unknown | _Made):
            raise _RefusedError("hides the name of what it imports")
        else:
            raise _BrokenError("it imports by something that is no name")

    def outside(self, _: object) -> None:
        """Point at an object outside."""
        self.seen.persistent = True
        self.push(_OUTSIDE)

    def outside_stack(self, _: object) -> None:
        """Point at the object outside that the topmost value names."""
        self._pop()
        self.outside(None)

    def reduce(self, _: object) -> None:
        """Call with a tuple of arguments."""
        arguments, callee = self._pop(), self._pop()
        self._call(callee, arguments)

    def new_with_keywords(self, _: object) -> None:
        """Create an object with arguments and keywords."""
        self._pop()
        self.reduce(None)

    def instance(self, pair: object) -> None:
        """Import a class and create an object with a group as arguments."""
        asked = self._import(*_texts(pair))
        self._call(asked, tuple(self._group()))

    def object_of_group(self, _: object) -> None:
        """Create an object of the class that a group begins with."""
        group = self._group()
        if not group:
            raise _BrokenError("it lacks a class")
        self._call(group[0], tuple(group[1:]))

    def build(self, _: object) -> None:
        """Set the state of an object."""
        self._pop()
        target = self._top()
        if isinstance(target, _Import):
            self.seen.refuse("changes a thing that it imported")
        elif isinstance(target, _Outside):
            self.seen.refuse("changes an object outside of itself")
        elif not isinstance(target, _Made):
            # Loaders walk past it where the state is empty.
            self.seen.refusals["sets the state of a plain value"] = None

    def freeze(self, _: object) -> None:
        """Make the buffer on top one that cannot be written."""
        self._top()
        self.seen.refusals["uses buffers outside of itself"] = None

    def nothing(self, _: object) -> None:
        """Do nothing."""

    def protocol(self, version: object) -> None:
        """Take note of the protocol."""
        if not isinstance(version, int) or version > MAX_PROTOCOL:
            raise _BrokenError(f"its protocol is {version}")

    def _import(self, module: str, name: str) -> _Import:
        asked = _Import(f"{module} {name}")
        self.seen.imports[asked.name] = None
        if not all(part.isidentifier() for part in module.split(".")):
            raise _BrokenError(f"no module is called {module!r}")
        return asked

    def _call(self, callee: object, arguments: object) -> None:
        if not isinstance(callee, _CALLABLE):
            raise _BrokenError("it calls a plain value")
        # The loader in C takes a tuple only; the one in Python takes whatever can be iterated.
        if isinstance(arguments, int | _Import):
            raise _BrokenError("it calls without arguments")
        if not isinstance(callee, _Import):
            raise _RefusedError("calls an object that it made")
        self.seen.calls[callee.name] = None
        self.seen.acts = self.seen.acts or not self.seen.persistent
        if callee.name == "_codecs encode" and not _plain_encoding(arguments):
            self.seen.refuse("encodes in an odd way")
        self.push(_MADE)

    def _check_fillable(self) -> None:
        target = self._top()
        if isinstance(target, _Import | _Outside):
            self.seen.refuse("changes a thing that it does not hold")
        elif not isinstance(target, _FILLABLE):
            # Loaders walk past it where there is nothing to fill in.
            self.seen.refusals["fills a plain value"] = None

    def _pop(self) -> object:
        if not self._stack:
            raise _BrokenError("its stack is empty")
        return self._stack.pop()

    def _top(self) -> object:
        if not self._stack:
            raise _BrokenError("its stack is empty")
        return self._stack[-1]

    def _group(self) -> list[object]:
        if not self._marked:
            raise _BrokenError("it lacks a mark")
        group, self._stack = self._stack, self._marked.pop()
        return group


def _texts(pair: object) -> tuple[str, str]:
    """Return a module and a name read as two lines."""
    if not isinstance(pair, tuple):
        raise _RefusedError("hides the name of what it imports")
    module, name = pair
    return module, name


def _plain_encoding(arguments: object) -> bool:
    """Return whether arguments are a text and the one encoding that bytes are carried in."""
    return (
        isinstance(arguments, tuple)
        and len(arguments) == len(("text", "encoding"))
        and isinstance(arguments[1], str)
        and arguments[1] in _CODECS
    )


def _argument(opcode: pickletools.OpcodeInfo, window: _Window) -> object:
    """Return what follows an opcode.

    The arguments that are lines of text are read here: pickletools reads them more strictly
    than loaders do, and what it stops at, a loader may walk past.
    """
    if opcode.arg is None:
        return None
    if opcode.arg.name == "stringnl_noescape_pair":
        return _pair(window.readline(), window.readline())
    if opcode.name in {"GET", "PUT"}:
        return _index(window.readline())
    if opcode.arg.name in _LINES:
        return _LINES[opcode.arg.name](window.readline())
    try:
        value = opcode.arg.reader(window)  # type: ignore[arg-type]
    except (ValueError, OverflowError) as error:
        raise _BrokenError(f"{opcode.name} is malformed") from error
    plain = isinstance(value, str) and len(value) <= _LONGEST_NAME and value.isascii()
    return value if plain or isinstance(value, int) else _UNKNOWN


def _pair(module: bytes, name: bytes) -> object:
    """Return a module and a name, if they can be read."""
    try:
        return module.decode(), name.decode()
    except UnicodeDecodeError:
        return _UNKNOWN


def _index(line: bytes) -> object:
    """Return the number on a line, read as loosely as any loader does."""
    try:
        return int(line.split(b"\0")[0])
    except ValueError:
        raise _BrokenError("a number is malformed") from None


def _number(line: bytes) -> object:
    """Return a stand-in for the number on a line, if it begins like one."""
    if not re.match(rb"\s*[+-]?\.?(?:[0-9]|nan|inf)", line, re.IGNORECASE):
        raise _BrokenError("a number is malformed")
    return _UNKNOWN


def _quoted(line: bytes) -> object:
    """Return the text between quotes, if it is a plain one."""
    line = line.strip()
    if len(line) < len("''") or line[0] != line[-1] or line[:1] not in {b"'", b'"'}:
        raise _BrokenError("a text is malformed")
    return _raw(line[1:-1])


def _raw(line: bytes) -> object:
    """Return the text on a line, if it is a plain one."""
    plain = line.isascii() and b"\\" not in line and len(line) <= _LONGEST_NAME
    return line.decode() if plain else _UNKNOWN


_LINES: Final[Mapping[str, Callable[[bytes], object]]] = {
    "decimalnl_long": _number,
    "decimalnl_short": _number,
    "floatnl": _number,
    "stringnl": _quoted,
    "stringnl_noescape": _raw,
    "unicodestringnl": _raw,
}

_PLAIN: Final = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
)  # fmt: skip

_HANDLERS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    **dict.fromkeys(_PLAIN, _Machine.push),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), lambda machine, _: machine.push(_UNKNOWN)),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _Machine.container),
    **dict.fromkeys(("LIST", "DICT", "FROZENSET"), _Machine.gather),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), _Machine.fill_group),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "APPEND": lambda machine, _: machine.fill(1),
    "SETITEM": lambda machine, _: machine.fill(2),
    "EMPTY_TUPLE": _Machine.empty_tuple,
    "TUPLE": _Machine.group_tuple,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.ask,
    "STACK_GLOBAL": _Machine.ask_stack,
    "PERSID": _Machine.outside,
    "BINPERSID": _Machine.outside_stack,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_of_group,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "READONLY_BUFFER": _Machine.freeze,
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.nothing,
}
"""What each opcode does. Nothing is read behind an opcode that is not here."""
