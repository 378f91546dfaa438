"""The second opinion on what is alive: read from the store, never from the catalog."""

from dataclasses import dataclass, field

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.registry.opened import Opened, leaf_key


@dataclass(slots=True)
class Alive:
    """What the exported leaves and publish objects say is alive.

    Attributes:
        size: The number of leaves read.
        artifacts: The live artifacts and their kinds.
        sessions: The session that wrote each one's publish object.
        pointers: The artifact that each stage points at.
        moves: The artifact of each pointer leaf, by number.
        removed: The files that artifacts were slimmed by.
        chunks: The chunks that live artifacts need.
    """

    size: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)
    moves: dict[int, str] = field(default_factory=dict)
    removed: dict[str, set[str]] = field(default_factory=dict)
    chunks: set[str] = field(default_factory=set)


def alive(registry: Opened, leaves: int | None = None) -> Alive:
    """Return what is alive by the store alone, after so many leaves where a number is given."""
    found = Alive()
    shredded: set[str] = set()
    backend = registry.store.backend
    while found.size != leaves and backend.size(leaf_key(found.size)) is not None:
        stored = digest.parse(backend.get(leaf_key(found.size)))
        leaf = Leaf.decode(stored["envelope"].encode())
        body = {} if stored["body"] is None else digest.parse(stored["body"].encode())
        if leaf.action == "publish":
            found.artifacts[leaf.subject] = body["kind"]
            found.sessions[leaf.subject] = body["object"]
        elif leaf.action == "forget":
            found.artifacts.pop(leaf.subject, None)
        elif leaf.action == "scope_shred":
            shredded.add(leaf.subject)
        elif leaf.action == "slim":
            found.removed.setdefault(leaf.subject, set()).update(body.get("files", ()))
        elif leaf.action in {"promote", "rollback"}:
            model = SignedStatement.from_body(body).payload["artifact"]
            found.pointers[leaf.subject] = found.moves[leaf.seq] = model
        found.size += 1
    for artifact in found.artifacts:
        key = Publication.key(artifact, found.sessions[artifact])
        publication = Publication.decode(backend.get(key))
        if publication.record.project in shredded:
            continue  # nobody can read them, so nothing is lost with them
        found.chunks.update(publication.keys(found.removed.get(artifact, ())))
    return found
