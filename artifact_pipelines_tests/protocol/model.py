"""The pack protocol as a machine with finitely many states, small enough to visit them all.

Read it beside `docs/design.md`, section 5. Every transition below is one transaction of the
catalog or one operation of the store; between any two of them anybody may act, pause for ever
or die. No transition reads a clock: a lease may be over, and a grace period too, whenever it
pleases. `GUARDS` are the conditions that make the protocol safe; a model without one of them
shows a trace that loses data.

The world: chunks `x` and `y` are in pack 0, which artifact `A` needs. Writers publish what
shares a chunk with it, while `A` may be forgotten, pack 0 may be condemned, compacted or
archived as differences, and everything that nothing needs is deleted.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

GUARDS = {
    "claim": "prune spares a pack that an open session claims",
    "need": "prune spares a pack that an artifact needs which was not forgotten",
    "absent": "a chunk in a pack that is being deleted counts as absent",
    "whole": "a difference whose base is gone or being deleted counts as absent",
    "fence": "a session that has expired cannot publish",
    "last look": "a publish is refused when a chunk that it relies on is gone",
    "recheck": "prune asks again, when the grace is over, whether anything needs the pack",
    "revive": "a claim and a publish bring a condemned pack back to life",
    "unmap": "prune unmaps the chunks of a pack in the transaction that dooms it",
    "row lock": "a claim looks and writes in one transaction, with the pack locked",
    "version": "a move commits only if the pack is as it was when it was read",
    "unclaimed": "a move commits only if no session claims the pack",
    "self-contained": "a difference is taken from a chunk that is itself no difference",
    "no dependents": "a chunk that others are differences from does not become one",
    "base pack": "whoever needs a difference needs the pack of its base",
    "reader": "what is being read is not forgotten",
}

OLD, NEW, DELTA_Y, DELTA_X = 0, 3, 4, 5
"""The first pack, the one that compaction writes, and those of the two archivers."""

CHUNKS = ("x", "y")
WANTED = {"A": ("x", "y")}


class Pack(NamedTuple):
    """A row of the catalog's table of packs."""

    state: str  # none, writing, live, condemned, deleting, gone
    owner: str | None = None
    version: int = 0


class Place(NamedTuple):
    """Where a chunk is."""

    pack: int
    base: str | None = None


class Writer(NamedTuple):
    """What a writer is about to do, and what it believes."""

    at: str = "begin"
    found: int | None = None  # a pack that it claimed


class Mover(NamedTuple):
    """What a move is about to do, the version that it saw, and what it copied or of which pack."""

    at: str = "begin"
    seen: tuple[int, int] = (0, 0)


class State(NamedTuple):
    """Everything that the catalog, the store and the processes hold."""

    packs: tuple[Pack, ...]
    stored: frozenset[int]  # the packs whose object is in the store
    places: tuple[Place | None, Place | None]  # of x and y
    artifacts: tuple[str, ...]  # A, B, C: none, live, forgotten
    needs: frozenset[tuple[str, int]]
    sessions: frozenset[str]  # the open ones
    claims: frozenset[tuple[str, int]]
    writers: tuple[Writer, Writer]
    compactor: Mover
    archivers: tuple[Mover, Mover]
    reader: str  # idle, reading, failed


class Scenario(NamedTuple):
    """Who takes part.

    Attributes:
        wants: The chunk that each writer's artifact consists of; None for no writer.
        compactor: Whether packs are compacted.
        archivers: How many archivers there are.
        reader: Whether A is read.
    """

    wants: tuple[str | None, str | None]
    compactor: bool = False
    archivers: int = 0
    reader: bool = False


NAMES = ("A", "B", "C")
_ABSENT = Pack("none")


def start(scenario: Scenario) -> State:
    """Return the first state: A is published, and nobody has begun."""
    idle = Mover("never")
    return State(
        (Pack("live"), _ABSENT, _ABSENT, _ABSENT, _ABSENT, _ABSENT),
        frozenset({OLD}),
        (Place(OLD), Place(OLD)),
        ("live", "none", "none"),
        frozenset({("A", OLD)}),
        frozenset(),
        frozenset(),
        (
            Writer() if scenario.wants[0] else Writer("never"),
            Writer() if scenario.wants[1] else Writer("never"),
        ),
        Mover() if scenario.compactor else idle,
        (
            Mover() if scenario.archivers > 0 else idle,
            Mover() if scenario.archivers > 1 else idle,
        ),
        "idle" if scenario.reader else "never",
    )


def place(state: State, chunk: str) -> Place | None:
    """Return where the catalog says that a chunk is."""
    return state.places[CHUNKS.index(chunk)]


def readable(state: State, chunk: str, depth: int = 0) -> bool:
    """Return whether the bytes of a chunk can be had."""
    found = place(state, chunk)
    if found is None or found.pack not in state.stored or depth > len(CHUNKS):
        return False
    return found.base is None or readable(state, found.base, depth + 1)


def chunks_of(artifact: str, scenario: Scenario) -> tuple[str, ...]:
    """Return the chunks of an artifact."""
    if artifact == "A":
        return CHUNKS
    wanted = scenario.wants[NAMES.index(artifact) - 1]
    return () if wanted is None else (wanted,)


def lost(state: State, scenario: Scenario) -> str | None:
    """Return which published artifact cannot be read, or None: the invariant."""
    for name, kind in zip(NAMES, state.artifacts, strict=True):
        for chunk in chunks_of(name, scenario) if kind == "live" else ():
            if not readable(state, chunk):
                return f"{name} is published and its chunk {chunk} cannot be read"
    if state.reader == "failed":
        return "a reader of A found A gone"
    return None


class Protocol:
    """The transitions, with some guards taken out."""

    def __init__(self, scenario: Scenario, without: frozenset[str] = frozenset()) -> None:
        """Take part in a scenario without some of the guards."""
        self.scenario = scenario
        self.without = without

    def has(self, guard: str) -> bool:
        """Return whether a guard is in place."""
        return guard not in self.without

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield everything that may happen next."""
        for number in (0, 1):
            yield from self.write(state, number)
            yield from self.archive(state, number)
        yield from self.compact(state)
        yield from self.expire(state)
        yield from self.forget(state)
        yield from self.prune(state)
        yield from self.read(state)

    # Writers

    def write(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        """Begin, claim or write, and publish: each its own transaction; any may never come."""
        writer, name = state.writers[number], f"writer {number + 1}"
        wanted, own = self.scenario.wants[number], number + 1
        if wanted is None or writer.at == "done":
            return
        if writer.at == "begin":
            yield (
                f"{name} opens a session",
                _to(state._replace(sessions=state.sessions | {name}), number, Writer("claim")),
            )
        elif writer.at == "claim" and name in state.sessions:
            yield from self.claim(state, number, wanted)
        elif writer.at == "claim late":  # looked before; the lock is missing
            yield f"{name} claims pack {writer.found}", self.claimed(state, number, writer.found)
        elif writer.at == "write":
            # A paused writer writes late, whatever has become of its session.
            yield (
                f"{name} writes pack {own}",
                _to(state._replace(stored=state.stored | {own}), number, Writer("publish")),
            )
        elif writer.at == "publish":
            yield from self.publish(state, number, wanted)

    def claim(self, state: State, number: int, wanted: str) -> Iterator[tuple[str, State]]:
        """Claim the pack behind a known chunk, or enter a pack of one's own."""
        name, own = f"writer {number + 1}", number + 1
        found = place(state, wanted)
        if found is not None and self.usable(state, found):
            if not self.has("row lock"):
                looked = _to(state, number, Writer("claim late", found.pack))
                yield f"{name} finds {wanted} in pack {found.pack}", looked
                return
            claimed = self.claimed(state, number, found.pack)
            yield f"{name} claims pack {found.pack} for {wanted}", claimed
        else:
            entered = _pack(state, own, Pack("writing", name))
            yield f"{name} enters pack {own}", _to(entered, number, Writer("write"))

    def usable(self, state: State, found: Place) -> bool:
        """Return whether a chunk counts as being in the store, and so does its base."""
        states = ("live", "condemned") if self.has("absent") else ("live", "condemned", "deleting")
        if state.packs[found.pack].state not in states:
            return False
        if found.base is None or not self.has("whole"):
            return True
        base = place(state, found.base)
        return base is not None and self.usable(state, base)

    def claimed(self, state: State, number: int, pack: int | None) -> State:
        """Return the state in which a session relies on a pack, and on its differences' bases."""
        assert pack is not None
        name = f"writer {number + 1}"
        wanted = self.scenario.wants[number]
        found = None if wanted is None else place(state, wanted)
        base = None if found is None or found.base is None else place(state, found.base)
        for one in {pack} | ({base.pack} if base is not None else set()):
            state = self.revived(state, one)
            state = state._replace(claims=state.claims | {(name, one)})
        return _to(state, number, Writer("publish", pack))

    def revived(self, state: State, pack: int) -> State:
        """Return the state in which a pack is relied on, and no longer condemned."""
        row = state.packs[pack]
        # What is being deleted is on its way out, whatever a row says.
        kind = row.state if row.state == "deleting" or not self.has("revive") else "live"
        return _pack(state, pack, Pack(kind, None, row.version + 1))

    def publish(self, state: State, number: int, wanted: str) -> Iterator[tuple[str, State]]:
        """Make an artifact visible, or be refused because the session or a chunk is gone."""
        name, own, artifact = f"writer {number + 1}", number + 1, NAMES[number + 1]
        refused = _end(_to(state, number, Writer("done")), name)
        mine = state.packs[own].state == "writing" and state.packs[own].owner == name
        if self.has("fence") and name not in state.sessions:
            yield f"{name} is refused: its session is gone", refused
            return
        if state.writers[number].found is None and not mine and self.has("fence"):
            yield f"{name} is refused: its pack is no longer its own", refused
            return
        if state.writers[number].found is None:
            there = place(state, wanted)
            state = _pack(state, own, Pack("live", None, state.packs[own].version + 1))
            if there is None:
                state = _map(state, wanted, Place(own))
        there = place(state, wanted)
        gone = there is None or not self.usable(state, there)
        if gone and self.has("last look"):
            yield f"{name} is refused: a chunk is gone", refused
            return
        used = _packs_behind(state, wanted)
        for one in used if not gone else ():
            state = self.revived(state, one)
        published = tuple(
            "live" if known == artifact else kind
            for known, kind in zip(NAMES, state.artifacts, strict=True)
        )
        needs = state.needs | {(artifact, one) for one in used}
        state = state._replace(artifacts=published, needs=needs)
        yield f"{name} publishes {artifact}", _end(_to(state, number, Writer("done")), name)

    # Leases, forgetting, prune, readers

    def expire(self, state: State) -> Iterator[tuple[str, State]]:
        """Remove any session at any time: safety rests on no clock."""
        for session in sorted(state.sessions):
            yield f"the session of {session} expires", _end(state, session)

    def forget(self, state: State) -> Iterator[tuple[str, State]]:
        """Forget an artifact that nobody reads."""
        for number, kind in enumerate(state.artifacts):
            reading = number == 0 and state.reader == "reading"
            if kind == "live" and not (reading and self.has("reader")):
                kinds = tuple(
                    "forgotten" if place == number else known
                    for place, known in enumerate(state.artifacts)
                )
                yield f"{NAMES[number]} is forgotten", state._replace(artifacts=kinds)

    def unneeded(self, state: State, pack: int) -> bool:
        """Return whether nothing needs a pack and no session relies on it."""
        live = {name for name, kind in zip(NAMES, state.artifacts, strict=True) if kind == "live"}
        needed = any(one == pack and name in live for name, one in state.needs)
        claimed = any(one == pack for _, one in state.claims)
        return not (needed and self.has("need")) and not (claimed and self.has("claim"))

    def prune(self, state: State) -> Iterator[tuple[str, State]]:
        """Condemn, doom and delete, each pack in transactions of its own."""
        for number, pack in enumerate(state.packs):
            if pack.state == "live" and self.unneeded(state, number):
                row = Pack("condemned", None, pack.version + 1)
                yield f"prune condemns pack {number}", _pack(state, number, row)
            elif pack.state == "condemned":
                if self.has("recheck") and not self.unneeded(state, number):
                    continue
                doomed = _pack(state, number, Pack("deleting", None, pack.version + 1))
                if self.has("unmap"):
                    for chunk in CHUNKS:
                        found = place(doomed, chunk)
                        if found is not None and found.pack == number:
                            doomed = _map(doomed, chunk, None)
                yield f"prune dooms pack {number}", doomed
            elif pack.state == "deleting":
                gone = _pack(state, number, Pack("gone"))
                gone = gone._replace(
                    stored=state.stored - {number},
                    needs=frozenset(need for need in state.needs if need[1] != number),
                )
                yield f"prune deletes pack {number}", gone
            elif pack.state == "gone" and number in state.stored:
                # What a paused writer wrote late is a stray: adopted, then deleted as any other.
                yield f"prune adopts the stray {number}", _pack(state, number, Pack("condemned"))

    def read(self, state: State) -> Iterator[tuple[str, State]]:
        """Read A under a lease; a pack that has gone is looked up again."""
        if state.reader == "idle" and state.artifacts[0] == "live":
            yield "a reader takes a lease on A", state._replace(reader="reading")
        elif state.reader == "reading":
            whole = all(readable(state, chunk) for chunk in CHUNKS)
            said = "reads A" if whole else "finds A gone"
            yield f"the reader {said}", state._replace(reader="idle" if whole else "failed")

    # Moves

    def compact(self, state: State) -> Iterator[tuple[str, State]]:
        """Copy what is alive of pack 0 into pack 3, and repoint."""
        mover = state.compactor
        old = state.packs[OLD]
        if mover.at == "begin" and old.state == "live":
            # Only what is needed is copied; which chunks those are is a set of bits.
            wanted = {
                chunk
                for name, kind in zip(NAMES, state.artifacts, strict=True)
                for chunk in (chunks_of(name, self.scenario) if kind == "live" else ())
            }
            # Whoever needs a difference needs its base.
            wanted |= {
                found.base
                for chunk in tuple(wanted)
                if (found := place(state, chunk)) is not None and found.base is not None
            }
            copied = sum(
                1 << bit
                for bit, chunk in enumerate(CHUNKS)
                if chunk in wanted and getattr(place(state, chunk), "pack", None) == OLD
            )
            entered = _pack(state, NEW, Pack("writing", "compactor"))
            entered = entered._replace(
                sessions=state.sessions | {"compactor"},
                compactor=Mover("write", (old.version, copied)),
            )
            yield "the compactor begins on pack 0", entered
        elif mover.at == "write" and OLD in state.stored:
            written = state._replace(
                stored=state.stored | {NEW}, compactor=Mover("commit", mover.seen)
            )
            yield "the compactor writes pack 3", written
        elif mover.at == "commit":
            done = _end(state._replace(compactor=Mover("done")), "compactor")
            mine = state.packs[NEW].state == "writing" and "compactor" in state.sessions
            if not mine and self.has("fence"):
                yield "the compactor is refused", done
            elif not self.movable(state, OLD, mover.seen[0]):
                yield "the compactor gives up", done
            else:
                yield "the compactor repoints pack 0 to pack 3", self.moved(state)

    def movable(self, state: State, pack: int, seen: int) -> bool:
        """Return whether a pack is as a move saw it, and nobody relies on it."""
        row = state.packs[pack]
        changed = row.version != seen or row.state != "live"
        claimed = any(one == pack for _, one in state.claims)
        return not (changed and self.has("version")) and not (claimed and self.has("unclaimed"))

    def moved(self, state: State) -> State:
        """Return the state after a compaction of pack 0 into pack 3."""
        row, copied = state.packs[NEW], state.compactor.seen[1]
        for bit, chunk in enumerate(CHUNKS):
            found = place(state, chunk)
            if found is not None and found.pack == OLD and copied >> bit & 1:
                state = _map(state, chunk, Place(NEW, found.base))
        needs = frozenset((name, NEW if pack == OLD else pack) for name, pack in state.needs)
        state = _pack(state._replace(needs=needs), NEW, Pack("live", None, row.version + 1))
        old = state.packs[OLD]
        state = _pack(state, OLD, Pack("condemned", None, old.version + 1))
        return _end(state._replace(compactor=Mover("done")), "compactor")

    def archive(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        """Replace y by its difference from x; the other archiver does it the other way round."""
        mover, name = state.archivers[number], f"archiver {number + 1}"
        target, base, own = (("y", "x", DELTA_Y), ("x", "y", DELTA_X))[number]
        there, basis = place(state, target), place(state, base)
        if mover.at == "begin" and there is not None and basis is not None:
            if there.base is None and basis.base is None and there.pack in state.stored:
                seen = (state.packs[there.pack].version, there.pack)
                entered = _pack(state, own, Pack("writing", name))
                entered = entered._replace(
                    sessions=state.sessions | {name},
                    archivers=_two(state.archivers, number, Mover("write", seen)),
                )
                yield f"{name} begins to encode {target} against {base}", entered
        elif mover.at == "write":
            written = state._replace(
                stored=state.stored | {own},
                archivers=_two(state.archivers, number, Mover("commit", mover.seen)),
            )
            yield f"{name} writes pack {own}", written
        elif mover.at == "commit":
            yield self.archived(state, number, target, base)

    def unfit(self, state: State, target: str, base: str, seen: tuple[int, int]) -> str | None:
        """Return why a chunk may not become a difference from another, with both locked."""
        there, basis = place(state, target), place(state, base)
        if there is None or basis is None or there.pack != seen[1]:
            return "a chunk has moved"
        if not self.movable(state, there.pack, seen[0]):
            return f"pack {there.pack} has changed"
        if state.packs[basis.pack].state not in {"live", "condemned"}:
            return f"{base} goes"
        if self.has("self-contained") and basis.base is not None:
            return f"{base} is a difference itself"
        dependents = any(found is not None and found.base == target for found in state.places)
        if self.has("no dependents") and dependents:
            return f"others are differences from {target}"
        return None

    def archived(self, state: State, number: int, target: str, base: str) -> tuple[str, State]:
        """Return what comes of an archiver's commit, with both chunks locked."""
        name, own = f"archiver {number + 1}", (DELTA_Y, DELTA_X)[number]
        seen = state.archivers[number].seen
        done = state._replace(archivers=_two(state.archivers, number, Mover("done")))
        there, basis = place(state, target), place(state, base)
        mine = state.packs[own].state == "writing" and name in state.sessions
        if not mine and self.has("fence"):
            return f"{name} is refused", _end(done, name)
        why = self.unfit(state, target, base, seen)
        if why is not None or there is None or basis is None:
            return f"{name} gives up: {why}", _end(done, name)
        after = _pack(done, own, Pack("live", None, state.packs[own].version + 1))
        after = _map(after, target, Place(own, base))
        row = after.packs[there.pack]
        after = _pack(after, there.pack, Pack(row.state, None, row.version + 1))
        row = after.packs[basis.pack]
        after = _pack(after, basis.pack, Pack("live", None, row.version + 1))
        needs = set(after.needs)
        for artifact in {one for one, pack in needs if pack == there.pack}:
            chunks = chunks_of(artifact, self.scenario)
            if target not in chunks:
                continue
            needs.add((artifact, own))
            others = {_packs_behind(after, chunk) for chunk in chunks if chunk != target}
            kept = {pack for packs in others for pack in packs}
            if there.pack not in kept:
                needs.discard((artifact, there.pack))
            if self.has("base pack"):
                needs.add((artifact, basis.pack))
        return (
            f"{name} commits {target} as a difference from {base}",
            _end(after._replace(needs=frozenset(needs)), name),
        )


def _packs_behind(state: State, chunk: str) -> frozenset[int]:
    """Return the packs that a chunk's bytes come from."""
    found = place(state, chunk)
    if found is None:
        return frozenset()
    base = None if found.base is None else place(state, found.base)
    return frozenset({found.pack} | ({base.pack} if base is not None else set()))


def _pack(state: State, number: int, row: Pack) -> State:
    packs = (*state.packs[:number], row, *state.packs[number + 1 :])
    return state._replace(packs=packs)


def _map(state: State, chunk: str, found: Place | None) -> State:
    x, y = state.places
    return state._replace(places=(found, y) if chunk == "x" else (x, found))


def _to(state: State, number: int, writer: Writer) -> State:
    return state._replace(writers=_two(state.writers, number, writer))


def _two(pair: tuple, number: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (value, pair[1]) if number == 0 else (pair[0], value)


def _end(state: State, session: str) -> State:
    """Remove a session and its claims; what it was writing is condemned."""
    packs = tuple(
        Pack("condemned", None, pack.version + 1)
        if pack.owner == session and pack.state == "writing"
        else pack
        for pack in state.packs
    )
    claims = frozenset(claim for claim in state.claims if claim[0] != session)
    return state._replace(packs=packs, claims=claims, sessions=state.sessions - {session})


def explore(
    scenario: Scenario, without: frozenset[str] = frozenset(), limit: int | None = None
) -> tuple[int, list[str] | None]:
    """Visit every state, the nearest first.

    Returns:
        How many states there are, and the shortest trace to one that loses data, or None.
    """
    protocol = Protocol(scenario, without)
    first = _shape(start(scenario))
    came: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        why = lost(state, scenario)
        if why is not None:
            return len(came), [*_trace(came, state), why]
        if limit is not None and len(came) > limit:
            break
        for label, after in protocol.steps(state):
            shape = _shape(after)
            if shape not in came:
                came[shape] = (state, label)
                waiting.append(shape)
    return len(came), None


def _shape(state: State) -> State:
    """Return a state with pack versions as small as they can be, told apart by who saw them.

    Only whether a version is the one that a mover saw matters, so it becomes 0 or 1.
    """
    seen: dict[int, set[int]] = {}
    if state.compactor.at in {"write", "commit"}:
        seen.setdefault(OLD, set()).add(state.compactor.seen[0])
    for mover in state.archivers:
        if mover.at in {"write", "commit"}:
            seen.setdefault(mover.seen[1], set()).add(mover.seen[0])
    ranks: dict[int, dict[int, int]] = {}
    packs = []
    for number, pack in enumerate(state.packs):
        known = sorted(seen.get(number, set()) | {pack.version})
        ranks[number] = {version: rank for rank, version in enumerate(known)}
        packs.append(pack._replace(version=ranks[number][pack.version]))

    def lowered(mover: Mover, number: int) -> Mover:
        if mover.at not in {"write", "commit"}:
            return Mover(mover.at)
        return Mover(mover.at, (ranks[number][mover.seen[0]], mover.seen[1]))

    return state._replace(
        packs=tuple(packs),
        compactor=lowered(state.compactor, OLD),
        archivers=(
            lowered(state.archivers[0], state.archivers[0].seen[1]),
            lowered(state.archivers[1], state.archivers[1].seen[1]),
        ),
    )


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    found: list[str] = []
    step = came[state]
    while step is not None:
        found.append(step[1])
        step = came[step[0]]
    return found[::-1]
