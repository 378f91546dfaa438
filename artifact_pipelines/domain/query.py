"""The language of `search`: comparisons, words, `and`, `or`, `not`, an order and a limit.

    query      = [ either ] [ "order" "by" field [ "asc" | "desc" ] ] [ "limit" number ]
    either     = both { "or" both }
    both       = one { "and" one }
    one        = "not" one | "(" either ")" | comparison | text
    comparison = field operator value | field [ "not" ] "in" "(" value { "," value } ")"
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    field      = word | group "." name        metrics.accuracy, params."lr/warm up"
    value      = number | word | text
    text       = '"' … '"' | "'" … "'"        a backslash keeps the next character

A text on its own is looked for among names, notes and cards.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from artifact_pipelines.errors import QueryError

FIELDS: Final[Mapping[str, str]] = {
    "kind": "text",
    "project": "text",
    "name": "text",
    "id": "text",
    "content": "text",
    "state": "text",
    "run_state": "text",
    "stage": "text",
    "dataset": "reference",
    "evaluation": "reference",
    "package": "text",
    "published": "text",
    "step": "number",
    "version": "number",
    "size": "number",
    "recalled": "text",
}
"""The fields that stand alone, and what they are compared with."""

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": ("dataset", "training_run", "checkpoint", "model"),
    "state": ("live", "forgotten"),
    "run_state": ("running", "finished", "failed"),
}
"""The fields that have a few values only."""

GROUPS: Final = frozenset({"metrics", "params", "tags", "packages", "facts", "code"})
"""The fields that have a name after a dot."""

MOST: Final = 10_000
_DEPTH: Final = 50
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator><=|>=|!=|=|<|>|~)
      | (?P<mark>[(),])
      | (?P<word>[\w.+/@:%-]+(?:"(?:[^"\\]|\\.)*")?)
    )""",
    re.VERBOSE | re.DOTALL,
)
_DATE: Final = re.compile(r"\d{4}(-\d\d){0,2}(T|$)")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "order", "by", "asc", "desc", "limit"})


@dataclass(frozen=True, slots=True)
class Field:
    """What is compared.

    Attributes:
        group: The field, or the group that it is in.
        name: The name in the group, or nothing.
        place: Where it stands in the query.
    """

    group: str
    name: str | None
    place: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """That a field is in some relation to values; with several, to any of them."""

    field: Field
    operator: str
    values: tuple[str | float, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Words:
    """That words are found among names, notes and cards."""

    text: str


@dataclass(frozen=True, slots=True)
class Not:
    """That something is not so."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class All:
    """That everything is so."""

    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Any:
    """That something of it is so."""

    parts: "tuple[Condition, ...]"


Condition = Comparison | Words | Not | All | Any


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the catalog.

    Attributes:
        where: What must be so; nothing for everything.
        order: By what the answer is ordered, or nothing: the newest first.
        descending: Whether the greatest comes first.
        limit: How many at most, or nothing.
    """

    where: Condition | None
    order: Field | None
    descending: bool
    limit: int | None


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


def fields(query: Query) -> list[Field]:
    """Return every field that a query names, in its order."""
    found = _fields(query.where)
    return found if query.order is None else [*found, query.order]


def _fields(part: Condition | None) -> list[Field]:
    match part:
        case Comparison(field):
            return [field]
        case Not(inner):
            return _fields(inner)
        case All(parts) | Any(parts):
            return [field for one in parts for field in _fields(one)]
    return []


def parse(text: str) -> Query:
    """Return the query that a text writes.

    Raises:
        QueryError: It writes none; the error says where.
    """
    return _Parser(text).query()


def wrong(text: str, place: int, what: str) -> QueryError:
    """Return the refusal of a query, which points at the place."""
    line = " ".join(text.split("\n"))
    return QueryError(
        f"the query is wrong at character {place + 1}: {what}.\n  {line}\n  {' ' * place}^", place
    )


class _Parser:
    """A reader of tokens from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._cut()
        self.at = 0
        self.depth = 0

    def query(self) -> Query:
        where = order = limit = None
        descending = False
        if not self._keyword("order", "limit") and self._peek() is not None:
            where = self._either()
        if self._take("order"):
            self._expect("by")
            order = self._field()
            descending = self._take("desc")
            if not descending:
                self._take("asc")
        if self._take("limit"):
            limit = self._limit()
        rest = self._peek()
        if rest is not None:
            raise self._wrong(rest, f"{rest.text!r} was not expected here; write 'and' or 'or'")
        return Query(where, order, descending, limit)

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        token = self._peek()
        self.depth += 1
        try:
            if self.depth > _DEPTH:
                raise self._wrong(token, f"it is nested deeper than {_DEPTH} levels")
            if self._take("not"):
                return Not(self._one())
            if token is not None and token.text == "(" and token.kind == "mark":
                self.at += 1
                inner = self._either()
                self._mark(")")
                return inner
            if token is not None and token.kind == "text":
                self.at += 1
                return Words(_plain(token.text))
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Condition:
        field = self._field()
        token = self._peek()
        if token is not None and token.kind == "operator":
            self.at += 1
            place = self._place()
            exact = token.text in {"=", "!="}
            return Comparison(field, token.text, (self._value(field, exact=exact),), place)
        denied = self._take("not")
        if not self._take("in"):
            raise self._wrong(self._peek(), "expected one of = != < <= > >= ~ in")
        self._mark("(")
        place = self._place()
        values = [self._value(field)]
        while self._comma():
            values.append(self._value(field))
        self._mark(")")
        found = Comparison(field, "=", tuple(values), place)
        return Not(found) if denied else found

    def _field(self) -> Field:
        token = self._next("a field, such as metrics.accuracy")
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            raise self._wrong(token, "expected a field, such as metrics.accuracy or kind")
        group, dot, name = token.text.partition(".")
        if dot and name.startswith('"'):
            name = _plain(name)
        if dot and group in GROUPS and name:
            return Field(group, name, token.place)
        if not dot and group in FIELDS:
            return Field(group, None, token.place)
        if group in GROUPS:
            raise self._wrong(token, f"a name must follow: {group}.name")
        raise self._wrong(
            token,
            f"there is no field {token.text!r}; there are {', '.join(sorted(FIELDS))} and "
            f"{', '.join(f'{one}.…' for one in sorted(GROUPS))}",
        )

    def _value(self, field: Field, *, exact: bool = True) -> str | float:
        token = self._next("a value")
        if token.kind not in {"text", "word"} or (token.kind == "word" and '"' in token.text):
            raise self._wrong(token, "expected a value: a number, a word or a text in quotes")
        plain = _plain(token.text) if token.kind == "text" else token.text
        known = VALUES.get(field.group)
        if exact and known and plain not in known:
            raise self._wrong(token, f"{field.group} is one of {', '.join(known)}")
        if field.group == "published" and not _DATE.match(plain):
            raise self._wrong(token, "published is compared with a date such as 2026-11-28")
        if token.kind == "text":
            return plain
        wanted = FIELDS.get(field.group, "number" if field.group == "metrics" else None)
        if _NUMBER.fullmatch(token.text) and wanted != "text" and field.group not in _TEXTS:
            return float(token.text)
        if wanted == "number" and token.text.lower() != "nan":
            raise self._wrong(token, f"{field.group} is compared with a number")
        return token.text

    def _limit(self) -> int:
        token = self._next("a number")
        if not token.text.isascii() or not token.text.isdigit() or not 0 < int(token.text) <= MOST:
            raise self._wrong(token, f"a limit is a whole number from 1 to {MOST}")
        return int(token.text)

    def _cut(self) -> list[_Token]:
        found, at = [], 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None or match.lastgroup is None:
                place = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                quoted = self.text[place] in "\"'"
                said = "a quote is not closed" if quoted else f"{self.text[place]!r} means nothing"
                raise wrong(self.text, place, said)
            found.append(
                _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
            )
            at = match.end()
        return found

    def _peek(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _next(self, what: str) -> _Token:
        token = self._peek()
        if token is None:
            raise self._wrong(None, f"expected {what}")
        self.at += 1
        return token

    def _keyword(self, *words: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "word" and token.text.lower() in words

    def _take(self, word: str) -> bool:
        found = self._keyword(word)
        self.at += found
        return found

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._wrong(self._peek(), f"expected {word!r}")

    def _mark(self, mark: str) -> None:
        token = self._peek()
        if token is None or (token.kind, token.text) != ("mark", mark):
            raise self._wrong(token, f"expected {mark!r}")
        self.at += 1

    def _comma(self) -> bool:
        token = self._peek()
        found = token is not None and (token.kind, token.text) == ("mark", ",")
        self.at += found
        return found

    def _place(self) -> int:
        token = self._peek()
        return len(self.text.rstrip()) if token is None else token.place

    def _wrong(self, token: _Token | None, what: str) -> QueryError:
        place = len(self.text.rstrip()) if token is None else token.place
        return wrong(self.text, place, what)


_TEXTS: Final = frozenset({"tags", "packages", "code"})


def _plain(text: str) -> str:
    """Return what stands between quotes."""
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
