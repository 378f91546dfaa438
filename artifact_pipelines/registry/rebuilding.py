"""Where chunks are, read from the packs alone."""

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from artifact_pipelines.catalog import packs, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import InvalidFormatError, KeyGoneError
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.codec import RAW
from artifact_pipelines.store.encryption import Keyring
from artifact_pipelines.store.pack import Location, read_footer


def map_packs(
    tx: Transaction,
    backend: Backend,
    publications: Mapping[str, Publication],
    keyring: Keyring | None,
) -> None:
    """Map the chunks of every whole pack; what no footer names is found by the next scrub.

    Args:
        tx: The transaction that rebuilds the catalog; the leaves are folded already.
        backend: The store.
        publications: What is behind the live artifacts.
        keyring: The keys of what is encrypted.

    Raises:
        KeyGoneError: A key is not at hand that was not destroyed on purpose.
    """
    scope = tables.scope
    shredded = sa.select(scope.c.id).where(scope.c.state == "shredded")
    destroyed = set(tx.conn.execute(shredded).scalars())
    found: dict[str, list[Location]] = {}
    for key in backend.keys("packs/"):
        pack = key.rpartition("/")[2]
        try:
            footer = read_footer(backend, pack, keyring)
        except InvalidFormatError:
            continue
        except KeyGoneError:
            if keyring is None or keyring.scope_of(pack) not in destroyed:
                raise
            footer = {}  # nobody can read it, so that prune may delete it
        tx.conn.execute(
            sa.insert(tables.pack).values(
                id=pack, state="live", version=0, size=backend.size(key) or 0
            )
        )
        for name, at in footer.items():
            found.setdefault(name, []).append(at)
    file = tables.artifact_file
    states: dict[str, dict[str, str]] = {}
    for row in tx.conn.execute(sa.select(file).where(file.c.state != "present")):
        states.setdefault(row.artifact, {})[row.path] = row.state
    needed, hot = {}, set()
    for artifact, publication in publications.items():
        said = states.get(artifact, {})
        needed[artifact] = publication.keys(
            {path for path, state in said.items() if state == "removed"}
        )
        if "archived" not in said.values():
            hot.update(needed[artifact])
    places = choose_places(found, hot)
    packs.map_chunks(tx, list(places.items()))
    for artifact, keys in needed.items():
        there = [places[key] for key in keys if key in places]
        there += [places[at.base] for at in there if at.base is not None]
        packs.attach(tx, artifact, sorted({at.pack for at in there}))


def choose_places(
    found: Mapping[str, Sequence[Location]], hot: Collection[str]
) -> dict[str, Location]:
    """Return one of the places of each chunk, so that every one of them can be read.

    A move leaves a chunk in two packs until the older one is deleted, and an abandoned move
    leaves differences that never counted. The base of a difference must stand for itself. A
    chunk that a hot artifact needs is taken raw, any other in its smallest form.

    Args:
        found: The places of each chunk, by key.
        hot: The chunks that hot artifacts need.
    """
    chosen: dict[str, Location] = {}
    for key, places in found.items():
        alone = [at for at in places if at.base is None]
        if alone:
            chosen[key] = min(alone, key=lambda at: _rank(at, hot=key in hot))
    bases: set[str] = set()
    for key, places in sorted(found.items()):
        for at in sorted(places, key=lambda at: _rank(at, hot=False)):
            if at.base is None or at.base not in chosen or chosen[at.base].base is not None:
                continue
            worth = key not in chosen or (key not in hot and at.stored < chosen[key].stored)
            if worth and key not in bases:
                chosen[key] = at
                bases.add(at.base)
                break
    return chosen


def _rank(at: Location, *, hot: bool) -> tuple[bool, int, str, int]:
    return (hot and at.codec != RAW, at.stored, at.pack, at.offset)
