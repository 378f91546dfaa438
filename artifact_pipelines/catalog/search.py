"""Answers to queries: a parsed query as one SQL statement, its values bound and never pasted.

Parameters, packages and code belong to a training run; its checkpoints and the models made
from them are found by them too, through the run that stands behind each artifact.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import sqlalchemy as sa
from packaging.version import InvalidVersion, Version
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import query as language
from artifact_pipelines.domain.query import Comparison, Condition, Field, Query, Words
from artifact_pipelines.domain.record import Kind

Clause = sa.ColumnElement[bool]
Find = Callable[[str], str]

DEFAULT_LIMIT = 100
_ALIKE = 0.7  # of two names that may be meant for one another
FEW = 1_000
"""So many artifacts are looked up one by one; beyond, the order is followed to the limit."""

_ARTIFACT = tables.artifact
_COLUMNS: Mapping[str, sa.ColumnElement[Any]] = {
    name: _ARTIFACT.c[name]
    for name in (
        *("kind", "project", "name", "id", "content", "state"),
        *("published", "step", "version", "size"),
    )
}
_WORD = re.compile(r"\w+")


def search(conn: Connection, text: str, find: Find, limit: int | None = None) -> list[sa.Row[Any]]:
    """Return the artifacts that a query finds.

    Args:
        conn: The catalog.
        text: The query.
        find: Returns the id of the artifact that a reference names.
        limit: How many at most, where the query does not say.

    Raises:
        QueryError: The text is no query.
    """
    asked = language.parse(text)
    return list(conn.execute(_Search(conn, text, find).statement(asked, limit)))


def projects(conn: Connection) -> list[str]:
    """Return the projects, each by one step into the index instead of a look at every row."""
    table = tables.artifact
    first = sa.select(sa.func.min(table.c.project).label("name"))
    named = first.cte("named", recursive=True)
    after = sa.select(sa.func.min(table.c.project)).where(table.c.project > named.c.name)
    named = named.union_all(sa.select(after.scalar_subquery()).where(named.c.name.is_not(None)))
    statement = sa.select(named.c.name).where(named.c.name.is_not(None))
    return sorted(conn.execute(statement).scalars())


def unheard(conn: Connection, text: str) -> list[str]:
    """Return what nothing here has of the names in a query, a sentence each.

    Raises:
        QueryError: The text is no query.
    """
    said = []
    for field in language.fields(language.parse(text)):
        whole = field.group if field.name is None else f"{field.group}.{field.name}"
        near = _near(conn, field)
        if near is not None:
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            said.append(f"nothing has {whole}{hint}")
    return list(dict.fromkeys(said))


def _near(conn: Connection, field: Field) -> list[str] | None:
    """Return names like one that nothing has, or nothing where something has it."""
    name = str(field.name)
    if field.group == "metrics":
        metric = tables.metric
        here = sa.and_(
            metric.c.project.in_(projects(conn)),
            metric.c.kind.in_([str(kind) for kind in Kind]),
            metric.c.name == name,
        )
        if conn.execute(sa.select(metric.c.artifact).where(here).limit(1)).first():
            return None
        newest = sa.select(_ARTIFACT.c.id).order_by(_ARTIFACT.c.seq.desc()).limit(FEW)
        known = sa.select(metric.c.name).where(metric.c.artifact.in_(newest)).distinct()
    elif field.group in {"params", "facts", "code"}:
        table = tables.parameter
        name = f"{field.group}.{name}"
        if conn.execute(sa.select(table.c.name).where(table.c.name == name).limit(1)).first():
            return None
        known = sa.select(table.c.name).where(table.c.name.startswith(f"{field.group}.")).distinct()
    elif field.group == "tags":
        known = sa.select(tables.label.c.name).distinct()
    elif field.group == "packages":
        package, name = tables.package, normal(name)
        if conn.execute(sa.select(package.c.lock).where(package.c.name == name).limit(1)).first():
            return None
        known = sa.select(package.c.name).distinct()
    else:
        return None
    names = set(conn.execute(known).scalars())
    if name in names:
        return None
    # What all of them begin with makes none of them alike.
    plain = [one.removeprefix(f"{field.group}.") for one in sorted(names)]
    near = difflib.get_close_matches(name.removeprefix(f"{field.group}."), plain, 3, _ALIKE)
    return [f"{field.group}.{one}" for one in near]


class _Search:
    """One query on its way to SQL."""

    def __init__(self, conn: Connection, text: str, find: Find) -> None:
        self.conn = conn
        self.text = text
        self.find = find
        self.projects: list[str] | None = None
        self.kinds = [str(kind) for kind in Kind]

    def statement(self, asked: Query, limit: int | None) -> sa.Select[Any]:
        statement = sa.select(_ARTIFACT)
        parts = conjuncts(asked.where)
        self.scope(parts)
        value: sa.ColumnElement[Any] | None = None
        if asked.order is not None and asked.order.group == "metrics":
            # Joined, and not looked up for each, so that the index gives the order as well;
            # so do its bounds, which say where in the index the answer lies.
            metric = tables.metric.alias("ordering")
            here = metric.c.artifact == _ARTIFACT.c.id
            statement = statement.join(metric, here).where(*self.indexed(metric, asked.order.name))
            value = metric.c.value
            bounds = [one for one in parts if is_bound(one) and one.field.name == asked.order.name]
            parts = [one for one in parts if one not in bounds]
            statement = statement.where(*(compared(value, one) for one in bounds))
        statement = statement.where(*self.narrowed(parts))
        if asked.order is not None and value is None:
            value = self.sortable(asked.order)
        if value is not None:
            statement = statement.where(value.is_not(None))
            statement = statement.order_by(value.desc() if asked.descending else value.asc())
        statement = statement.order_by(_ARTIFACT.c.seq.desc())
        return statement.limit(asked.limit or limit or DEFAULT_LIMIT)

    def narrowed(self, parts: Sequence[Condition]) -> list[Clause]:
        """Return that everything is so, by the shortest way that there is for its metrics.

        Where a bound lets few values through, those are looked up. Where each lets many
        through, the artifacts are followed in their order, and asked for their metrics one
        by one: as many are so, the limit is near.
        """
        bounds = [one for one in parts if is_bound(one)]
        clauses = [self.clause(one) for one in parts if one not in bounds]
        for bound in bounds:
            measured = self.measured(bound)
            if self.conn.execute(measured.offset(FEW).limit(1)).first() is None:
                clauses.append(_ARTIFACT.c.id.in_(self.conn.execute(measured).scalars().all()))
                break
        return clauses + [self.probed(bound) for bound in bounds]

    def scope(self, parts: Sequence[Condition]) -> None:
        """Note the projects and kinds that everything found has to be of."""
        for one in parts:
            if isinstance(one, Comparison) and one.operator == "=":
                if one.field.group == "project":
                    self.projects = [str(value) for value in one.values]
                elif one.field.group == "kind":
                    self.kinds = [str(value) for value in one.values]

    def indexed(self, metric: sa.FromClause, name: str | None) -> list[Clause]:
        """Return that a metric has a name, with all that its index begins with."""
        if self.projects is None:
            self.projects = projects(self.conn)
        return [
            metric.c.project.in_(self.projects),
            metric.c.kind.in_(self.kinds),
            metric.c.name == name,
        ]

    def clause(self, part: Condition) -> Clause:
        match part:
            case language.All(parts):
                return sa.and_(*(self.clause(one) for one in parts))
            case language.Any(parts):
                return sa.or_(*(self.clause(one) for one in parts))
            case language.Not(inner):
                return sa.not_(self.clause(inner))
            case Words(text):
                return _ARTIFACT.c.id.in_(words(self.conn, text))
            case Comparison():
                return self.comparison(part)

    def comparison(self, part: Comparison) -> Clause:
        group = part.field.group
        if group in _COLUMNS:
            return compared(_COLUMNS[group], part)
        handler: Callable[[Comparison], Clause] = getattr(self, f"_{group}")
        return handler(part)

    def sortable(self, field: Field) -> sa.ColumnElement[Any]:
        if field.group in _COLUMNS:
            return _COLUMNS[field.group]
        if field.group in {"params", "facts", "code"}:
            table = tables.parameter
            owner = _ARTIFACT.c.id if field.group == "facts" else _ARTIFACT.c.run
            return (
                sa.select(table.c.number)
                .where(table.c.artifact == owner, table.c.name == f"{field.group}.{field.name}")
                .scalar_subquery()
            )
        raise language.wrong(self.text, field.place, f"{field.group} has no order")

    def measured(self, part: Comparison) -> sa.Select[Any]:
        """Return the statement for the artifacts whose metric lies within a bound."""
        metric = tables.metric
        return sa.select(metric.c.artifact).where(
            *self.indexed(metric, part.field.name), compared(metric.c.value, part)
        )

    def probed(self, part: Comparison) -> Clause:
        """Return that an artifact's own metric lies within a bound, by its primary key."""
        metric = tables.metric
        value = (
            sa.select(metric.c.value)
            .where(metric.c.artifact == _ARTIFACT.c.id, metric.c.name == part.field.name)
            .scalar_subquery()
        )
        return compared(value, part)

    def _metrics(self, part: Comparison) -> Clause:
        return _ARTIFACT.c.id.in_(self.measured(part))

    def _named(self, part: Comparison, owner: sa.ColumnElement[Any]) -> Clause:
        table = tables.parameter
        name = f"{part.field.group}.{part.field.name}"
        number = all(isinstance(value, float) for value in part.values) and part.operator != "~"
        column: sa.ColumnElement[Any] = table.c.number if number else table.c.text
        found = sa.select(table.c.artifact).where(table.c.name == name, compared(column, part))
        if not number and part.operator in {"<", "<=", ">", ">="}:
            # A number is neither before nor after a word.
            found = found.where(table.c.number.is_(None))
        return owner.in_(found)

    def _params(self, part: Comparison) -> Clause:
        return self._named(part, _ARTIFACT.c.run)

    def _code(self, part: Comparison) -> Clause:
        return self._named(part, _ARTIFACT.c.run)

    def _facts(self, part: Comparison) -> Clause:
        return self._named(part, _ARTIFACT.c.id)

    def _tags(self, part: Comparison) -> Clause:
        label = tables.label
        found = sa.select(label.c.artifact).where(
            label.c.name == part.field.name, compared(label.c.value, part)
        )
        return _ARTIFACT.c.id.in_(found)

    def _stage(self, part: Comparison) -> Clause:
        stage = tables.stage
        return _ARTIFACT.c.id.in_(sa.select(stage.c.artifact).where(compared(stage.c.stage, part)))

    def _run_state(self, part: Comparison) -> Clause:
        run = tables.run
        return _ARTIFACT.c.run.in_(sa.select(run.c.id).where(compared(run.c.state, part)))

    def _recalled(self, part: Comparison) -> Clause:
        wanted = [str(value).lower() for value in part.values]
        if part.operator not in {"=", "!="} or not set(wanted) <= {"true", "false"}:
            raise language.wrong(self.text, part.place, "recalled is true or false")
        found = _ARTIFACT.c.recalled.in_([value == "true" for value in wanted])
        return sa.not_(found) if part.operator == "!=" else found

    def _cited(self, part: Comparison, role: str) -> Clause:
        if part.operator not in {"=", "!="}:
            raise language.wrong(self.text, part.place, f"a {part.field.group} is = or !=")
        edge = tables.edge
        found = sa.select(edge.c.child).where(
            edge.c.parent.in_([self.find(str(value)) for value in part.values]),
            edge.c.role.startswith(f"{role}:", autoescape=True),
        )
        clause = sa.or_(_ARTIFACT.c.run.in_(found), _ARTIFACT.c.id.in_(found))
        if part.operator == "!=":
            clause = sa.and_(sa.not_(clause), _ARTIFACT.c.kind != "dataset")
        return clause

    def _dataset(self, part: Comparison) -> Clause:
        return self._cited(part, "dataset")

    def _evaluation(self, part: Comparison) -> Clause:
        return self._cited(part, "evaluation")

    def _package(self, part: Comparison) -> Clause:
        if part.operator not in {"=", "!="}:
            raise language.wrong(
                self.text, part.place, "write package = name==version, or packages.name < version"
            )
        package = tables.package
        wanted = []
        for value in part.values:
            name, _, version = str(value).partition("==")
            here = package.c.name == normal(name)
            wanted.append(sa.and_(here, package.c.version == version) if version else here)
        found = _ran_with(sa.select(package.c.lock).where(sa.or_(*wanted)))
        return found if part.operator == "=" else sa.and_(_HAS_PACKAGES, sa.not_(found))

    def _packages(self, part: Comparison) -> Clause:
        package = tables.package
        name = normal(str(part.field.name))
        here = sa.select(package.c.version).where(package.c.name == name).distinct()
        known = self.conn.execute(here).scalars()
        chosen = [version for version in known if self._is_version(version, part)]
        locks = sa.select(package.c.lock).where(
            package.c.name == name, package.c.version.in_(chosen)
        )
        return _ran_with(locks)

    def _is_version(self, version: str, part: Comparison) -> bool:
        wanted = [str(value) for value in part.values]
        if part.operator == "~":
            return wanted[0].lower() in version.lower()
        if part.operator in {"=", "!="}:
            return (version in wanted) == (part.operator == "=")
        try:
            mine, theirs = Version(version), Version(wanted[0])
        except InvalidVersion as error:
            raise language.wrong(self.text, part.place, f"{error}") from None
        return {
            "<": mine < theirs,
            "<=": mine <= theirs,
            ">": mine > theirs,
            ">=": mine >= theirs,
        }[part.operator]


_RUN = tables.artifact.alias("behind")
_HAS_PACKAGES = _ARTIFACT.c.run.in_(sa.select(_RUN.c.id).where(_RUN.c.lock.is_not(None)))


def _ran_with(locks: sa.Select[Any]) -> Clause:
    return _ARTIFACT.c.run.in_(sa.select(_RUN.c.id).where(_RUN.c.lock.in_(locks)))


def conjuncts(part: Condition | None) -> list[Condition]:
    """Return what all has to be so for a condition to be so."""
    if part is None:
        return []
    if isinstance(part, language.All):
        return [inner for one in part.parts for inner in conjuncts(one)]
    return [part]


def is_bound(part: Condition) -> TypeGuard[Comparison]:
    """Return whether a condition compares a metric with a number."""
    return (
        isinstance(part, Comparison) and part.field.group == "metrics" and "nan" not in part.values
    )


def normal(name: str) -> str:
    """Return the normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compared(column: sa.ColumnElement[Any], part: Comparison) -> Clause:
    """Return whether a column is in a relation to values."""
    values: Sequence[str | float | None] = part.values
    if part.field.group == "metrics" and values[0] == "nan":
        return column.is_(None) if part.operator == "=" else column.is_not(None)
    if part.operator == "=":
        return column.in_(values)
    value = values[0]
    if part.operator == "~":
        return sa.func.lower(sa.cast(column, sa.Text)).contains(str(value).lower(), autoescape=True)
    return {
        "!=": column != value,
        "<": column < value,
        "<=": column <= value,
        ">": column > value,
        ">=": column >= value,
    }[part.operator]


def words(conn: Connection, text: str) -> sa.Select[Any] | sa.TextualSelect:
    """Return the statement for the artifacts in whose names, notes or cards all words are."""
    found = _WORD.findall(text)
    table = tables.words
    if not found:
        return sa.select(table.c.artifact).where(sa.false())
    if conn.dialect.name == "sqlite":
        asked = " ".join(f'"{word}"' for word in found)
        index = sa.table("words_index", sa.column("rowid"), sa.column("words_index"))
        rows = (
            sa.select(index.c.rowid)
            .where(sa.literal_column("words_index").op("MATCH")(asked))
            .select_from(index)
        )
        return sa.select(table.c.artifact).where(table.c.seq.in_(rows))
    vector = sa.func.to_tsvector(sa.literal_column("'simple'"), table.c.text)
    asked_of = sa.func.plainto_tsquery(sa.literal_column("'simple'"), " ".join(found))
    return sa.select(table.c.artifact).where(vector.op("@@")(asked_of))
