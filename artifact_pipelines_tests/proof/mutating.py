"""Changes that an attacker makes to a bundle, each with the reasons that may be given for it.

An attacker without keys changes files. One who holds the log's key writes the tree anew over
the changed leaves and signs heads over it; what other keys signed stays out of reach.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.signing import SigningKey, TreeHead, sign_head
from artifact_pipelines_tests.proof.evidence import Evidence

MOVES = ("promote", "rollback")
ERASABLE = ("annotate", "banner_set")
RULES = {"refused", "malformed", "replayed", "edited"}
KEYS = ("key_register", "key_rotate", "key_revoke", "log_rotate")
SIGNED = ("policy_set", "verdict", "approval", "promote", "rollback", *KEYS)


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes:
        name: The way of changing and what was changed, such as `drop ledger`.
        files: The changed files; None for one that is taken away.
        expected: The kinds of problem that describe it rightly.
        kept: A tree head that the auditor kept, or nothing.
    """

    name: str
    files: Mapping[str, bytes | None]
    expected: frozenset[str]
    kept: str | None = None


@dataclass
class Mutator:
    """A source of mutations of one bundle."""

    evidence: Evidence
    rng: random.Random
    leaves: list[dict[str, Any]] = field(init=False)
    heads: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        """Read the bundle."""
        self.leaves = read(self.evidence.files["leaves.jsonl"])
        self.heads = read(self.evidence.files["heads.jsonl"])

    def mutations(self) -> Iterator[Mutation]:
        """Yield mutations without end, each way in turn."""
        ways: list[Callable[[], Mutation]] = [
            getattr(self, name) for name in sorted(vars(type(self))) if name.startswith("by_")
        ]
        while True:
            for way in ways:
                yield way()

    # Without a key

    def by_editing_an_envelope(self) -> Mutation:
        """Change what an envelope says, but for its number."""
        leaves = self.copied()
        leaf = self.rng.choice(leaves)
        envelope = json.loads(leaf["envelope"])
        name = self.rng.choice(["time", "actor", "action", "subject", "body"])
        envelope[name] = self.other(envelope[name])
        leaf["envelope"] = text(envelope)
        return self.ledger("edit ledger", leaves, "edited")

    def by_flipping_a_bit_of_an_envelope(self) -> Mutation:
        """Change any bit of an envelope or of its quotes."""
        data = self.flipped(self.evidence.files["leaves.jsonl"])
        # A flipped digit of the number reads as another leaf, a lost line end as a cut line.
        kinds = ("edited", "malformed", "inserted", "dropped", "truncated", "reordered")
        return Mutation("edit ledger", {"leaves.jsonl": data}, frozenset(kinds))

    def by_editing_a_body(self) -> Mutation:
        """Change what a shown body says."""
        leaves = self.copied()
        leaf = self.rng.choice([leaf for leaf in leaves if leaf["body"] is not None])
        body = json.loads(leaf["body"])
        name = self.rng.choice(sorted(body))
        body[name] = self.other(body[name])
        leaf["body"] = text(body)
        action = json.loads(leaf["envelope"])["action"]
        return self.ledger(f"edit {about(action)}", leaves, "edited")

    def by_taking_a_body_away(self) -> Mutation:
        """Hide a body."""
        leaves = self.copied()
        leaf = self.rng.choice([leaf for leaf in leaves if leaf["body"] is not None])
        leaf["body"] = None
        action = json.loads(leaf["envelope"])["action"]
        return self.ledger(f"drop {about(action)}", leaves, "dropped")

    def by_dropping_a_leaf(self) -> Mutation:
        """Take a leaf away that is not the last."""
        leaves = self.copied()
        del leaves[self.rng.randrange(len(leaves) - 1)]
        return self.ledger("drop ledger", leaves, "dropped")

    def by_inserting_a_leaf(self) -> Mutation:
        """Enter a leaf twice, or one that no head covers."""
        leaves = self.copied()
        leaf = dict(self.rng.choice(leaves))
        if self.rng.random() < 0.5:
            envelope = json.loads(leaf["envelope"])
            leaf["envelope"] = text({**envelope, "seq": len(leaves)})
        leaves.insert(self.rng.randrange(len(leaves) + 1), leaf)
        return self.ledger("insert ledger", leaves, "inserted")

    def by_reordering_leaves(self) -> Mutation:
        """Swap two leaves."""
        leaves = self.copied()
        one, two = self.rng.sample(range(len(leaves)), 2)
        leaves[one], leaves[two] = leaves[two], leaves[one]
        return self.ledger("reorder ledger", leaves, "reordered")

    def by_truncating_the_ledger(self) -> Mutation:
        """Cut leaves off, or a part of a line."""
        leaves = self.copied()[: self.rng.randrange(1, len(self.leaves))]
        return self.ledger("truncate ledger", leaves, "truncated")

    def by_truncating_a_file(self) -> Mutation:
        """Cut off the end of any file."""
        name = self.rng.choice(sorted(set(self.evidence.files) - {"verify.py"}))
        data = self.evidence.files[name]
        cut = data[: self.rng.randrange(len(data))]
        kinds = {"edited", "truncated", "dropped", "malformed", "replayed"}
        expected = frozenset({"edited"} if "/" in name else kinds)
        return Mutation(f"truncate {target(name)}", {name: cut}, expected)

    def by_editing_an_addressed_file(self) -> Mutation:
        """Change any bit of a record, manifest, policy, piece of evidence or the model."""
        name = self.rng.choice([name for name in self.evidence.files if "/" in name])
        data = self.flipped(self.evidence.files[name])
        return Mutation(f"edit {target(name)}", {name: data}, frozenset({"edited"}))

    def by_dropping_a_file(self) -> Mutation:
        """Take any file away."""
        name = self.rng.choice(sorted(set(self.evidence.files) - {"verify.py"}))
        return Mutation(f"drop {target(name)}", {name: None}, frozenset({"dropped"}))

    def by_inserting_a_file(self) -> Mutation:
        """Add a file that nothing cites."""
        folder = self.rng.choice(["", "records/", "manifests/", "objects/", "files/", "more/"])
        name = f"{folder}{self.rng.randbytes(8).hex()}"
        return Mutation("insert file", {name: b"{}"}, frozenset({"unlisted"}))

    def by_swapping_files(self) -> Mutation:
        """Give one addressed file the bytes of another."""
        names = [name for name in self.evidence.files if "/" in name]
        one, two = self.rng.sample(names, 2)
        files = {one: self.evidence.files[two], two: self.evidence.files[one]}
        return Mutation(f"reorder {target(one)}", files, frozenset({"edited"}))

    def by_editing_a_head(self) -> Mutation:
        """Change a line of a head or its signature."""
        heads = [dict(head) for head in self.heads]
        head = self.rng.choice(heads)
        head["note"] = self.flipped_text(head["note"])
        # Another size reads as another head.
        kinds = ("edited", "malformed", "dropped", "replayed", "inserted", "reordered")
        return Mutation("edit head", {"heads.jsonl": lines(heads)}, frozenset(kinds))

    def by_dropping_a_head(self) -> Mutation:
        """Take a head away."""
        heads = list(self.heads)
        place = self.rng.randrange(len(heads))
        last = place == len(heads) - 1
        del heads[place]
        kind = "replayed" if last else "dropped"
        return Mutation("drop head", {"heads.jsonl": lines(heads)}, frozenset({kind}))

    def by_inserting_a_head(self) -> Mutation:
        """Show a head twice."""
        heads = list(self.heads)
        heads.insert(self.rng.randrange(len(heads)), self.rng.choice(heads))
        return Mutation("insert head", {"heads.jsonl": lines(heads)}, frozenset({"inserted"}))

    def by_reordering_heads(self) -> Mutation:
        """Swap two heads."""
        heads = list(self.heads)
        one, two = self.rng.sample(range(len(heads)), 2)
        heads[one], heads[two] = heads[two], heads[one]
        return Mutation("reorder head", {"heads.jsonl": lines(heads)}, frozenset({"reordered"}))

    def by_replaying_an_old_head(self) -> Mutation:
        """Show the log as it was, to an auditor who has seen more of it."""
        heads = self.heads[: self.rng.randrange(1, len(self.heads))]
        size = head_of(heads[-1]).size
        about_ = json.loads(self.evidence.files["bundle.json"])
        sizes = [head_of(head).size for head in heads]
        files: dict[str, bytes | None] = {"heads.jsonl": lines(heads)}
        kept = None
        if self.rng.random() < 0.5:
            files["leaves.jsonl"] = lines(self.leaves[:size])
            files["bundle.json"] = line({**about_, "heads": sizes})
            kept = self.evidence.heads[-1]
        # The older log may lack what the bundle is about, which is noticed first.
        kinds = {"replayed"} if kept is None else {"replayed", "refused", "malformed", "dropped"}
        if not self.is_rotated(self.leaves[:size]):
            kinds |= {"untrusted"}
        return Mutation("replay head", files, frozenset(kinds), kept)

    def by_writing_a_file_otherwise(self) -> Mutation:
        """Say the same in other bytes: other spaces, another order, escapes, more line ends."""
        name = self.rng.choice(["bundle.json", "proof.json", "heads.jsonl", "leaves.jsonl"])
        told = read(self.evidence.files[name])
        one = self.rng.randrange(len(told))
        ways = [
            json.dumps(told[one]),
            json.dumps(dict(reversed(told[one].items())), separators=(",", ":")),
            text(told[one]) + self.rng.choice([" ", "\r", "\t"]),
            text(told[one])[:-1] + f',"{next(iter(told[one]))}":null}}',
        ]
        written = [text(value) for value in told]
        written[one] = self.rng.choice([way for way in ways if way != written[one]])
        data = "".join(part + "\n" for part in written).encode()
        return Mutation(f"edit {target(name)}", {name: data}, frozenset({"edited"}))

    def by_editing_a_proof(self) -> Mutation:
        """Change the inclusion proof: edit, drop, insert or swap its nodes."""
        path = list(json.loads(self.evidence.files["proof.json"])["path"])
        way = self.rng.choice(["edit", "drop", "insert", "reorder"])
        place = self.rng.randrange(len(path))
        if way == "edit":
            path[place] = self.other(path[place])
        elif way == "drop":
            del path[place]
        elif way == "insert":
            path.insert(place, self.rng.randbytes(32).hex())
        else:
            path = path[1:] + path[:1]
        data = line({"path": path})
        return Mutation(f"{way} proof", {"proof.json": data}, frozenset({"edited"}))

    def by_renaming_the_subject(self) -> Mutation:
        """Say that the bundle is about something else."""
        about_ = json.loads(self.evidence.files["bundle.json"])
        name = self.rng.choice(
            ["subject", "artifact", "project", "stage", "seq", "format", "heads"]
        )
        about_[name] = self.other(about_[name])
        kinds = ("edited", "malformed", "dropped", "replayed", "refused", "unlisted", "reordered")
        data = line(about_)
        return Mutation("edit subject", {"bundle.json": data}, frozenset(kinds))

    # With the log's key

    def by_forging_a_statement(self) -> Mutation:
        """Change what somebody else signed, and sign the log over it."""
        leaves = self.copied()
        leaf = self.rng.choice([one for one in leaves if action_of(one) in SIGNED and one["body"]])
        body = json.loads(leaf["body"])
        said = json.loads(body["statement"])
        name = self.rng.choice(sorted(set(said) - {"type", "origin"}))
        said[name] = self.other(said[name])
        body["statement"] = text(said)
        if self.rng.random() < 0.3:
            stranger = SigningKey.from_seed(self.rng.randbytes(32))
            body |= stranger.sign_statement(said).as_body()
        self.seal(leaf, body)
        return self.signed(f"forge {about(action_of(leaf))}", leaves, {"refused", "edited"})

    def by_dropping_evidence(self) -> Mutation:
        """Leave out a verdict or approval that a promotion rests on, and sign the log over it."""
        leaves = self.copied()
        places = [
            place
            for place, leaf in enumerate(leaves)
            if action_of(leaf) in {"verdict", "approval", "key_register", "policy_set", "request"}
            and leaf["body"]
            and json.loads(json.loads(leaf["body"]).get("statement", "{}")).get("passed", True)
        ]
        place = self.rng.choice(places)
        what = about(action_of(leaves[place]))
        del leaves[place]
        # Every later number moves, so that what cites a leaf cites another one.
        return self.signed(f"fork drop {what}", leaves, {"refused", "malformed", "replayed"})

    def by_forging_history(self) -> Mutation:
        """Write another history: the auditor kept a head, or older heads are in the bundle."""
        leaves = self.copied()
        place = self.rng.randrange(len(leaves) - 1)
        leaf = leaves[place]
        envelope = json.loads(leaf["envelope"])
        leaf["envelope"] = text({**envelope, "time": "2020-01-01T00:00:00.000000Z"})
        if self.rng.random() < 0.5:
            return self.signed("fork ledger", leaves, {"forked"}, self.evidence.heads[-1])
        sizes = [head_of(head).size for head in self.heads]
        stale = [size for size in sizes[:-1] if size > place]
        if not stale:
            return self.signed("fork ledger", leaves, {"forked"}, self.evidence.heads[-1])
        fresh = self.signed("fork ledger", leaves, {"forked"})
        heads = read(fresh.files["heads.jsonl"] or b"")
        older = sizes.index(self.rng.choice(stale))
        heads[older] = self.heads[older]
        return Mutation(fresh.name, {**fresh.files, "heads.jsonl": lines(heads)}, fresh.expected)

    def by_moving_pointers_in_a_head(self) -> Mutation:
        """Sign a head that commits to pointers which no leaf moved."""
        heads = [dict(head) for head in self.heads]
        place = self.rng.randrange(len(heads))
        head = head_of(heads[place])
        pointers = {"digits/production": place}
        forged = TreeHead(head.origin, head.size, head.root, digest.sha256(text(pointers).encode()))
        heads[place] = {"note": self.sign(forged, self.leaves)}
        return Mutation("forge head", {"heads.jsonl": lines(heads)}, frozenset({"refused"}))

    def by_going_on_after_a_key_ended(self) -> Mutation:
        """Drop a rotation or revocation, or move it behind what the next key signed."""
        leaves = self.copied()
        ends = [place for place, one in enumerate(leaves) if action_of(one) in KEYS[1:]]
        place = self.rng.choice(ends)
        leaf = leaves.pop(place)
        what = action_of(leaf)
        if self.rng.random() < 0.5:
            leaves.insert(self.rng.randrange(place + 1, len(leaves) + 1), leaf)
            # Where nothing that it signed is in between, only a head that was kept shows it.
            kinds, kept = {"forked", "untrusted", *RULES}, self.evidence.heads[-1]
            return self.signed(f"fork reorder {about(what)}", leaves, kinds, kept)
        kinds = RULES if self.is_rotated(leaves) else {"untrusted", *RULES}
        return self.signed(f"fork drop {about(what)}", leaves, kinds)

    def by_signing_with_a_key_that_ended(self) -> Mutation:
        """Sign a decision with the thief's copy of a key that was rotated or revoked before."""
        leaves = self.copied()
        places = [
            place
            for place, one in enumerate(leaves)
            if action_of(one) in {"verdict", "approval", *MOVES} and one["body"]
        ]
        leaf = leaves[self.rng.choice(places[-6:])]
        said = json.loads(json.loads(leaf["body"])["statement"])
        role = {"verdict": "service", "approval": "bob"}.get(action_of(leaf), "service")
        self.seal(leaf, self.evidence.ended[role].sign_statement(said).as_body())
        return self.signed(f"forge {about(action_of(leaf))}", leaves, {"refused"})

    def by_passing_an_erasure_off(self) -> Mutation:
        """Say that a deciding body or a name was erased, or that nobody erased what is missing."""
        leaves = self.copied()
        erasures = [place for place, one in enumerate(leaves) if action_of(one) == "erase"]
        if self.rng.random() < 0.4:
            del leaves[self.rng.choice(erasures)]
            return self.signed("fork drop erasure", leaves, {"dropped", *RULES})
        shown = [
            place
            for place, one in enumerate(leaves)
            if one["body"] and action_of(one) not in ERASABLE
        ]
        hidden = self.rng.choice(shown)
        place = self.rng.choice(erasures)
        envelope = json.loads(leaves[place]["envelope"])
        leaves[place]["envelope"] = text({**envelope, "subject": f"leaf/{hidden}"})
        leaves[hidden]["body"] = None
        # An erasure is taken away from what it was about, which now is missing without one.
        return self.signed("forge erasure", leaves, {"dropped"})

    def by_filing_under_another_subject(self) -> Mutation:
        """File a leaf under what its body is not about, so that it concerns nobody."""
        leaves = self.copied()
        leaf = self.rng.choice(
            [one for one in leaves if one["body"] and action_of(one) in (*SIGNED, "request")]
        )
        envelope = json.loads(leaf["envelope"])
        others = [json.loads(one["envelope"])["subject"] for one in leaves]
        others += ["churn/production", "0" * 64, f"{envelope['subject']}x"]
        subject = self.rng.choice([one for one in others if one != envelope["subject"]])
        leaf["envelope"] = text({**envelope, "subject": subject})
        # A move that is filed elsewhere is missing at its place.
        kinds = {"refused", "replayed", "malformed", "dropped"}
        return self.signed("forge subject", leaves, kinds)

    def by_changing_a_name(self) -> Mutation:
        """Put somebody else's name behind a pseudonym."""
        name = self.rng.choice([one for one in self.evidence.files if one.startswith("actors/")])
        told = json.loads(self.evidence.files[name])
        data = digest.canonical({**told, "name": self.rng.choice(["mallory", "alice", ""])})
        return Mutation("edit name", {name: data}, frozenset({"edited"}))

    # The means

    def seal(self, leaf: dict[str, Any], body: Mapping[str, Any]) -> None:
        """Give a leaf another body, and its envelope the digest of it."""
        leaf["body"] = text({**body, "salt": json.loads(leaf["body"])["salt"]})
        leaf["envelope"] = text(
            {**json.loads(leaf["envelope"]), "body": digest.sha256(leaf["body"].encode())}
        )

    def copied(self) -> list[dict[str, Any]]:
        """Return the leaves, to be changed."""
        return [dict(leaf) for leaf in self.leaves]

    def sign(self, head: TreeHead, leaves: list[dict[str, Any]]) -> str:
        """Return a head signed with the key that signs heads of its size."""
        rotated = self.is_rotated(leaves[: head.size])
        return sign_head(head, "log", self.evidence.key if rotated else self.evidence.ended["log"])

    @staticmethod
    def is_rotated(leaves: list[dict[str, Any]]) -> bool:
        """Return whether the log's key was rotated: an older one is not the auditor's."""
        return any(action_of(leaf) == "log_rotate" for leaf in leaves)

    def ledger(self, name: str, leaves: list[dict[str, Any]], kind: str) -> Mutation:
        """Return a mutation of the ledger."""
        return Mutation(name, {"leaves.jsonl": lines(leaves)}, frozenset({kind}))

    def signed(
        self,
        name: str,
        leaves: list[dict[str, Any]],
        kinds: set[str],
        kept: str | None = None,
    ) -> Mutation:
        """Return a mutation of the ledger with heads and a proof that fit it."""
        for seq, leaf in enumerate(leaves):
            leaf["envelope"] = text({**json.loads(leaf["envelope"]), "seq": seq})
        hashes = [merkle.leaf_hash(leaf["envelope"].encode()) for leaf in leaves]
        about_ = json.loads(self.evidence.files["bundle.json"])
        sizes = sorted({min(size, len(leaves)) for size in about_["heads"]})
        origin = head_of(self.heads[0]).origin
        heads = []
        for size in sizes:
            pointers = {
                json.loads(leaf["envelope"])["subject"]: seq
                for seq, leaf in enumerate(leaves[:size])
                if action_of(leaf) in MOVES
            }
            told = digest.canonical(pointers).decode()
            head = TreeHead(origin, size, merkle.root(hashes[:size]), digest.sha256(told.encode()))
            heads.append({"note": self.sign(head, leaves)})
        moved = [seq for seq, leaf in enumerate(leaves) if action_of(leaf) in MOVES]
        seq = moved[-1] if moved else 0
        nodes = {(0, index): hashed for index, hashed in enumerate(hashes)}

        def hash_of(level: int, index: int) -> bytes:
            if (level, index) not in nodes:
                nodes[level, index] = merkle.node_hash(
                    hash_of(level - 1, 2 * index), hash_of(level - 1, 2 * index + 1)
                )
            return nodes[level, index]

        path = [node.hex() for node in merkle.inclusion_proof(seq, len(leaves), hash_of)]
        files = {
            "leaves.jsonl": lines(leaves),
            "heads.jsonl": lines(heads),
            "proof.json": line({"path": path}),
            "bundle.json": line({**about_, "heads": sizes, "seq": seq}),
        }
        return Mutation(name, files, frozenset(kinds), kept)

    def other(self, value: Any) -> Any:  # noqa: ANN401  any JSON
        """Return another value of the same kind."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + self.rng.choice([-1, 1, 7])
        if isinstance(value, str) and value:
            place = self.rng.randrange(len(value))
            return value[:place] + ("1" if value[place] != "1" else "2") + value[place + 1 :]
        if isinstance(value, list) and value:
            return value[:-1] if self.rng.random() < 0.5 else [*value, value[0]]
        if isinstance(value, dict):
            return {**value, "more": 1}
        return "1" * 64

    def flipped(self, data: bytes) -> bytes:
        """Return bytes with one bit changed."""
        changed = bytearray(data)
        changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def flipped_text(self, said: str) -> str:
        """Return a text with one character changed."""
        place = self.rng.randrange(len(said))
        fresh = self.rng.choice("A1/\n z=")
        fresh = "B" if fresh == said[place] else fresh
        return said[:place] + fresh + said[place + 1 :]


def read(data: bytes) -> list[dict[str, Any]]:
    """Return the objects of a file of lines."""
    return [json.loads(line) for line in data.splitlines()]


def lines(objects: list[dict[str, Any]]) -> bytes:
    """Return objects as a file of lines."""
    return b"".join(map(line, objects))


def line(value: Mapping[str, Any]) -> bytes:
    """Return canonical JSON as a line."""
    return digest.canonical(value) + b"\n"


def text(value: Mapping[str, Any]) -> str:
    """Return canonical JSON."""
    return digest.canonical(value).decode()


def action_of(leaf: Mapping[str, Any]) -> str:
    """Return what a leaf did."""
    return str(json.loads(leaf["envelope"])["action"])


def head_of(stored: Mapping[str, Any]) -> TreeHead:
    """Return the tree head of a stored line."""
    origin, size, root, pointers, *_ = str(stored["note"]).split("\n")
    return TreeHead(origin, int(size), base64.b64decode(root), pointers.split()[1])


def about(action: str) -> str:
    """Return what a leaf's body is called in the table of results."""
    known = {"verdict": "verdict", "approval": "approval", "policy_set": "policy"}
    return known.get(action, "key" if action in KEYS else "body")


def target(name: str) -> str:
    """Return what a file is called in the table of results."""
    if name.startswith("objects/"):
        return "policy"
    folders = {"records": "record", "manifests": "record", "files": "bytes", "actors": "name"}
    names = {"leaves.jsonl": "ledger", "heads.jsonl": "head", "proof.json": "proof"}
    return folders.get(name.partition("/")[0], names.get(name, "subject"))
