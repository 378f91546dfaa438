"""Check an exported bundle, trusting neither it nor whoever exported it.

    python -I -S verify.py [--key HEX] [--head FILE] [FOLDER]

--key is the log's public key, known from elsewhere: without it the bundle only agrees with itself.
--head is a tree head that you kept: the log must begin with it. Files left out go under files/.

The exit code is 0 if all of this holds, else 1: the envelopes are all there, as every signed
head covers them, and bodies and names are what they cite; who signed a decision had the role;
every move of a stage was allowed by the verdicts, approvals and policy of that moment; heads say
where stages point; records, manifests, lineage and files match their digests; no more is here.
"""

import argparse
import base64
import functools
import hashlib
import json
import re
from pathlib import Path


class Problem(Exception):
    """Why a bundle is not accepted: a sentence and its kind, which is edited, dropped, inserted,
    reordered, truncated, forked, replayed (an old state shown as new), unlisted (a file that
    nothing accounts for), refused (a rule was broken), untrusted (another key) or malformed."""


def need(holds, kind, sentence):
    if not holds:
        raise Problem(kind, sentence)


# Ed25519, RFC 8032 5.1.7, without its leniencies: S is below L, points have their one
# encoding, and keys of small order, under which anything passes, are refused.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def decode_point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x * pow(2, (P - 1) // 4, P) % P if (x * x - square) % P else x
    if (x * x - square) % P or y >= P or len(data) != 32 or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


@functools.cache
def signed_by(public, signature, message):
    """Return whether a signature over a message is a key's; all three are bytes."""
    base, key = decode_point(bytes.fromhex("58" + "66" * 31)), decode_point(public)
    point, scalar = decode_point(signature[:32]), int.from_bytes(signature[32:], "little")
    if key is None or point is None or len(signature) != 64 or scalar >= L:
        return False
    eightfold = functools.reduce(lambda point, _: add(point, point), range(3), key)
    if eightfold[0] == 0 and eightfold[1] == eightfold[2]:
        return False
    hashed = hashlib.sha512(signature[:32] + public + message).digest()
    challenge, minus = int.from_bytes(hashed, "little") % L, (P - key[0], key[1], 1, P - key[3])
    table, found = {(1, 0): base, (0, 1): minus, (1, 1): add(base, minus)}, (0, 1, 1, 0)
    for bit in range(252, -1, -1):
        found, pair = add(found, found), (scalar >> bit & 1, challenge >> bit & 1)
        found = add(found, table[pair]) if pair in table else found
    x, y, z, _ = found
    return (x - point[0] * z) % P == (y - point[1] * z) % P == 0


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def from_base64(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "edited", "base64 is not spelt canonically.")
    return data


def from_json(data, what, canonical=False):
    def once(pairs):
        need(len(dict(pairs)) == len(pairs), "edited", f"{what} repeats a key.")
        return dict(pairs)

    try:
        found = json.loads(data, object_pairs_hook=once)
    except ValueError as error:
        raise Problem("edited", f"{what} is not JSON: {error}.") from error
    need(not canonical or plain(found) + b"\n" == data, "edited", f"{what} is not canonical JSON.")
    return found


def plain(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_lines(data, what):
    need(data.endswith(b"\n"), "truncated", f"{what} ends in the middle of a line.")
    return [from_json(line, f"a line of {what}", True) for line in data.splitlines(True)]


def tree_hash(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def grow(peaks, size, hashed):
    """Add a leaf's hash to the roots of the complete subtrees, and return the root over all."""
    while size & 1:
        hashed, size = tree_hash(b"\1", peaks.pop(), hashed), size >> 1
    peaks.append(hashed)
    return functools.reduce(lambda root, peak: tree_hash(b"\1", peak, root), reversed(peaks))


def root_by(path, hashed, index, size):
    """Return the root that an inclusion path leads to from a leaf's hash (RFC 6962, 2.1.1)."""
    if not path or size == 1:
        return hashed if not path and size == 1 else b""
    left = 1 << (size - 1).bit_length() - 1
    if index < left:
        return tree_hash(b"\1", root_by(path[:-1], hashed, index, left), path[-1])
    return tree_hash(b"\1", path[-1], root_by(path[:-1], hashed, index - left, size - left))


class Head:
    """A signed tree head: a C2SP note of origin, size, root and pointers."""

    NOTE = re.compile(
        r"(([!-*,-~]+)\n(0|[1-9][0-9]*)\n([A-Za-z0-9+/]{43}=)\npointers ([0-9a-f]{64})\n)\n"
        r"— log ([A-Za-z0-9+/]+=*)\n(— [!-*,-~]+ [A-Za-z0-9+/]+=*\n)*"  # then its witnesses
    )

    def __init__(self, note):
        found = self.NOTE.fullmatch(note)
        need(found, "edited", "a tree head is not a well-formed note.")
        self.text, self.origin, self.size = found[1], found[2], int(found[3])
        self.root, self.pointers, self.signature = from_base64(found[4]), found[5], found[6]

    def signed(self, public):
        """Return whether the log's key signed it."""
        data, hint = from_base64(self.signature), tree_hash(b"log\n\1", public)[:4]
        return data[:4] == hint and signed_by(public, data[4:], self.text.encode())


GOVERNING = {"log_create", "log_rotate", "key_register", "key_rotate", "key_revoke", "recall"}
PLACED = {"policy_set", "request", "approval", "promote", "rollback", "alias_set"}
MOVES, ERASABLE = {"promote", "rollback"}, {"annotate", "banner_set"}
FORMAT = "artifact-pipelines/bundle/v1"
SIGNED = (  # action:type of statement:role of its signer
    "promote:pointer:operator rollback:pointer:operator approval:approval:approver "
    "verdict:verdict:gate policy_set:policy:owner log_rotate:log_key:owner "
    "key_register:key:owner key_rotate:rotation:owner key_revoke:revocation:owner"
)
TYPES = {action: (kind, role) for action, kind, role in (s.split(":") for s in SIGNED.split())}


def concerns(action, subject, project, lineage, judged):
    """Return whether the body of a leaf has to be shown."""
    if action in PLACED:
        return subject.split("/")[0] == project
    return action in GOVERNING or subject in (judged if action == "verdict" else lineage)


def place_of(said):
    need("/" not in said["project"] + said["stage"], "refused", "a name holds a slash.")
    return f"{said['project']}/{said['stage']}"


class Rules:
    """What the leaves so far establish; each do_<action> returns what its leaf is about."""

    def __init__(self, read_object):
        self.read_object, self.origin = read_object, None
        self.log_keys, self.keys, self.names, self.policies, self.said = [], {}, {}, {}, set()
        self.verdicts, self.evidence, self.requests, self.approvals = {}, {}, {}, {}
        self.recalled, self.pointers, self.proven, self.moves = {}, {}, {}, {}

    def must(self, holds, sentence):
        need(holds, "refused", f"leaf {self.seq} ({self.leaf['action']}) {sentence}.")

    def replay(self, leaf):
        self.leaf, self.seq, self.body = leaf, leaf["seq"], leaf["opened"]
        handler = getattr(self, "do_" + leaf["action"], None)
        if self.body is not None and handler is not None:
            said = self.statement() if leaf["action"] in TYPES else self.body
            self.must(handler(said) == leaf["subject"], "is filed under another subject")

    def statement(self):
        """Return what a statement says, once its key, role, kind and log are right."""
        kind, role = TYPES[self.leaf["action"]]
        key = self.keys.get(self.body["key"], {"roles": ()})
        self.must(role in key["roles"], f"is signed by no {role}'s key")
        self.must(key["revoked"] is None, f"is signed by {key['name']}'s key, revoked before")
        message = b"artifact-pipelines/statement/v1\n" + self.body["statement"].encode()
        valid = signed_by(key["public"], from_base64(self.body["signature"]), message)
        self.must(valid, "bears no valid signature")
        said = from_json(self.body["statement"], "a statement")
        self.must((said["type"], said["origin"]) == (kind, self.origin), "was signed as another")
        return said

    def do_log_create(self, said):
        self.must(self.seq == 0, "begins the log a second time")
        self.origin = said["origin"]
        self.do_key_register({**said["owner"], "roles": ["owner"]})
        return self.do_log_rotate({"public": said["log_key"]})

    def do_log_rotate(self, said):
        self.log_keys.append((self.seq, bytes.fromhex(said["public"])))
        return self.origin

    def do_key_register(self, said):
        """Register, rotate or revoke: end the key that is named, add the one that is brought."""
        if "key" in said:
            ended = self.names.pop(said["name"], None) == said["key"]
            self.must(ended, "ends a key that is not in force")
            self.keys[said["key"]]["revoked"] = self.seq
        if "public" in said:
            raw = bytes.fromhex(said["public"])
            fresh = sha256(raw)[:16] not in self.keys and said["name"] not in self.names
            self.must(fresh, f"registers the key {said['name']} a second time")
            key = {"name": said["name"], "public": raw, "revoked": None}
            key["roles"] = (self.keys[said["key"]] if "key" in said else said)["roles"]
            self.names[said["name"]], self.keys[sha256(raw)[:16]] = sha256(raw)[:16], key
        return said["name"]

    do_key_rotate = do_key_revoke = do_key_register

    def do_policy_set(self, said):
        project, statement = said["project"], sha256(self.body["statement"].encode())
        same = said["policy"] == self.policies.get(project, {}).get("policy")
        self.must(same or statement not in self.said, "enters a former statement again")
        self.said.add(statement)
        self.policies[project] = said
        return project

    def do_verdict(self, said):
        self.must(type(said["passed"]) is bool, "neither passed nor failed")
        self.evidence.setdefault(said["artifact"], []).append(said["evidence"])
        bound = said["project"], said["artifact"], said["policy"], said["baseline"], said["gate"]
        if self.verdicts.setdefault(bound, (self.seq, said["passed"]))[1] > said["passed"]:
            self.verdicts[bound] = (self.seq, False)  # a failure is final, the first pass counts
        return said["artifact"]

    def do_request(self, said):
        self.requests.setdefault((place_of(said), said["artifact"]), set()).add(said["author"])
        return place_of(said)

    def do_approval(self, said):
        own = said["approver"] == self.keys[self.body["key"]]["name"]
        self.must(own, "approves in the name of somebody else")
        self.approvals[self.seq] = (place_of(said), said, self.leaf["actor"])
        return place_of(said)

    def do_recall(self, said):
        for artifact in [said["artifact"], *said["descendants"]]:
            self.recalled.setdefault(artifact, self.seq)
        return said["artifact"]

    def do_promote(self, said):
        project, artifact, policy = said["project"], said["artifact"], said["policy"]
        in_force = self.policies.get(project, {"policy": None})
        self.must(in_force["policy"] == policy, "cites a policy that is not in force")
        rules = from_json(self.read_object(policy), "a policy").get("promotion", {})
        self.must(said["stage"] in rules, "goes to a stage that its policy lacks")
        baseline, cited = self.pointers.get(f"{project}/production", (0, None))[1], []
        for gate in in_force["gates"]:
            bound = project, artifact, policy, baseline, gate
            verdict, passed = self.verdicts.get(bound, (None, False))
            self.must(passed, f"moves to a model that did not pass {gate}")
            cited.append(verdict)
        self.must(sorted(said["verdicts"]) == sorted(cited), "cites other verdicts than it needs")
        rule = rules[said["stage"]]
        counted = [] if rule in ("automatic", "best") else self.counted(said, rule)
        self.must(sorted(said["approvals"]) == counted, "cites approvals that do not count")
        self.evidence.setdefault(artifact, []).append(said["provenance"])
        self.proven[place_of(said), artifact] = (self.seq, policy)
        return self.move(said)

    def counted(self, said, rule):
        """Return the approvals that a promotion uses up: one a person, for this very move."""
        authors, first = self.requests.get((place_of(said), said["artifact"]), set()), {}
        strict, bound = rule.get("author_may_approve") is False, ("artifact", "policy", "pointer")
        self.must(authors or not strict, "moves to a model that nobody requested")
        for seq in sorted(set(said["approvals"]) & set(self.approvals)):
            place, approval, actor = self.approvals[seq]
            same = place == place_of(said) and all(approval[one] == said[one] for one in bound)
            if same and not (strict and actor in authors):
                first.setdefault(approval["approver"], seq)
        self.must(len(first) >= rule["approvals"], f"has {len(first)} approvals, too few")
        return sorted(first.values())

    def do_rollback(self, said):
        proof, cited = self.proven.get((place_of(said), said["artifact"])), said["verdicts"]
        proven = proof == (said["original"], said["policy"]) and not cited + said["approvals"]
        self.must(proven, "goes back to a model without its promotion")
        self.must(said["previous"] != said["artifact"], "goes back to what is in place")
        return self.move(said)

    def move(self, said):
        place, artifact = place_of(said), said["artifact"]
        self.must(artifact not in self.recalled, "moves to a model that was recalled")
        current = self.pointers.get(place, (0, None))
        self.must((said["pointer"], said["previous"]) == current, "was decided on another pointer")
        self.pointers[place], self.moves[self.seq] = (self.seq, artifact), said
        self.requests.pop((place, artifact), None)
        return place


class Check:
    """One bundle under examination; `run` raises the first problem."""

    def __init__(self, root, key=None, kept=None):
        self.root, self.accounted, self.key = Path(root), {"verify.py"}, key
        self.kept, self.lineage, self.names = None if kept is None else Head(kept), {}, {}
        self.rules = Rules(lambda digest: self.read(f"objects/{digest}", digest))

    def run(self):
        self.about = from_json(self.read("bundle.json"), "bundle.json", True)
        need(self.about["format"] == FORMAT, "malformed", f"bundle.json is not of format {FORMAT}.")
        self.project, self.artifact = self.about["project"], self.about["artifact"]
        self.report = {"subject": None, "artifact": self.artifact}
        for step in (self.read_heads, self.read_leaves, self.read_lineage, self.read_bodies):
            step()
        for leaf in self.leaves:
            self.rules.replay(leaf)
        for step in (self.check_heads, self.check_subject, self.check_files):
            step()
        return self.report

    def find(self, name, digest=None):
        """Return where a file is, of this digest where one is given; it is accounted for."""
        self.accounted.add(name)
        need((self.root / name).is_file(), "dropped", f"{name} is missing.")
        with (self.root / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        need(digest in {None, found}, "edited", f"{name} was changed.")
        return self.root / name

    def read(self, name, digest=None):
        return self.find(name, digest).read_bytes()

    def read_heads(self):
        """Read the tree heads, which must be those that bundle.json lists."""
        lines = from_lines(self.read("heads.jsonl"), "heads.jsonl")
        self.heads = [Head(one["note"]) for one in lines]
        sizes, listed = [head.size for head in self.heads], self.about["heads"]
        need(len(set(sizes)) == len(sizes), "inserted", "a tree head is there twice.")
        need(sizes == listed or sorted(sizes) != sorted(listed), "reordered", "heads are mixed.")
        need(sizes[-1] >= listed[-1], "replayed", "an old tree head is shown as the newest.")
        need(sizes == listed, "dropped", "there are other tree heads than bundle.json lists.")

    def read_leaves(self):
        """Read the leaves, which must be those that the newest head covers."""
        stored = from_lines(self.read("leaves.jsonl"), "leaves.jsonl")
        envelopes = [from_json(one["envelope"], "an envelope") for one in stored]
        seqs, size = [leaf["seq"] for leaf in envelopes], self.heads[-1].size
        missing = sorted(set(range(size)) - set(seqs))
        need(len(set(seqs)) == len(seqs) and max(seqs) < size, "inserted", "there are more leaves.")
        kind = "truncated" if missing[:1] == [len(seqs)] else "dropped"
        need(not missing, kind, f"leaves are missing: {str(missing)[:60]}.")
        need(seqs == sorted(seqs), "reordered", "the leaves are not in order.")
        peaks, self.roots, self.leaves = [], {}, []
        for leaf, one in zip(envelopes, stored, strict=True):
            self.leaves.append({**leaf, "text": one["envelope"], "opened": one["body"]})
            hashed = tree_hash(b"\0", one["envelope"].encode())
            self.roots[leaf["seq"] + 1] = grow(peaks, leaf["seq"], hashed)
        right = [0, *(head.size for head in self.heads if self.roots[head.size] == head.root)]
        need(right[-1] == size, "edited", f"the leaves from {right[-1]} on differ from the head.")

    def read_lineage(self):
        """Read the records and manifests of everything that the artifact was made from."""
        waiting, self.manifests = [self.artifact], {}
        for found in waiting:
            record = from_json(self.read(f"records/{found}", found), "a record")
            self.lineage[found], content = record, record["content"]
            self.manifests[found] = self.read(f"manifests/{content}", content)
            parents = [*(cited["id"] for cited in record["inputs"]), record["run"]]
            waiting += [one for one in dict.fromkeys(parents) if one and one not in waiting]

    def read_bodies(self):
        """Open the bodies; those that concern the project or the lineage must be there."""
        redacted, judged = self.report.setdefault("redacted", []), set(self.lineage)
        for leaf in self.leaves:
            if leaf["opened"] is not None:
                same = sha256(leaf["opened"].encode()) == leaf["body"]
                need(same, "edited", f"the body of leaf {leaf['seq']} was changed.")
                leaf["opened"] = body = from_json(leaf["opened"], "a body")
                if leaf["action"] in MOVES:
                    judged.add(from_json(body["statement"], "a statement")["artifact"])
        erased = {leaf["subject"] for leaf in self.leaves if leaf["action"] == "erase"}
        shown = {leaf["actor"] for leaf in self.leaves if leaf["opened"] is not None}
        for actor in sorted(one for one in shown if f"actor/{one}" not in erased):
            data = self.read(f"actors/{actor}")
            need(sha256(data)[:32] == actor, "edited", f"actors/{actor} was changed.")
            self.names[actor] = from_json(data, "an actor's name")["name"]
        for leaf in self.leaves:
            told = concerns(leaf["action"], leaf["subject"], self.project, self.lineage, judged)
            if told and leaf["opened"] is None:
                gone = f"leaf/{leaf['seq']}" in erased and leaf["action"] in ERASABLE
                need(gone, "dropped", f"the body of leaf {leaf['seq']} is missing.")
                redacted.append(leaf["seq"])

    def check_heads(self):
        """Check what every head says and who signed it, and what is trusted."""
        pointers, seq = {}, 0
        for head in self.heads:
            moves = [leaf for leaf in self.leaves[seq : head.size] if leaf["action"] in MOVES]
            pointers |= {leaf["subject"]: leaf["seq"] for leaf in moves}
            seq, name = head.size, f"the tree head of {head.size} leaves"
            self.log_key = [key for since, key in self.rules.log_keys if since < seq][-1]
            need(head.signed(self.log_key), "edited", f"{name} is not signed by the log's key.")
            need(head.origin == self.rules.origin, "edited", f"{name} is of another log.")
            need(head.root == self.roots[seq], "forked", f"{name} is of another history.")
            need(sha256(plain(pointers)) == head.pointers, "refused", f"{name} points elsewhere.")
        self.report |= {"leaves": seq, "heads": len(self.heads), "log_key": self.log_key.hex()}
        self.report["anchored"] = self.key is not None or self.kept is not None
        need(self.key in {None, self.log_key.hex()}, "untrusted", "another key signed that head.")
        if self.kept is not None:
            size, name = self.kept.size, f"the head of {self.kept.size} leaves that you kept"
            need(size <= seq, "replayed", f"{name} is newer than the newest one here.")
            need(self.kept.root == self.roots[size], "forked", f"{name} is of another history.")

    def check_subject(self):
        """Check where the artifact was published and is pointed at, and the proof of it."""
        published = {one["subject"]: one for one in self.leaves if one["action"] == "publish"}
        need(self.lineage.keys() <= published.keys(), "refused", "its lineage was never published.")
        said, seq = published[self.artifact]["opened"], self.about["seq"]
        number, stage = said["version" if said["step"] is None else "step"], self.about["stage"]
        place, name = f"{self.project}/{stage}", f"{said['name']}@{number}"
        name = {"model": f"v{number}", "training_run": said["name"]}.get(said["kind"], name)
        subject = f"{said['project']}/{name}" if stage is None else f"{self.project}@{stage}"
        need(self.about["subject"] == subject, "edited", "bundle.json names another subject.")
        there = stage is None or self.rules.pointers[place] == (seq, self.artifact)
        need(there, "replayed", f"{place} does not point at {self.artifact} any more.")
        need(self.artifact not in self.rules.recalled, "refused", f"{self.artifact} was recalled.")
        path = from_json(self.read("proof.json"), "proof.json", True)["path"]
        path, head, leaf = [bytes.fromhex(one) for one in path], self.heads[-1], self.leaves[seq]
        proven = root_by(path, tree_hash(b"\0", leaf["text"].encode()), seq, head.size) == head.root
        need(proven, "edited", f"the inclusion proof does not lead from leaf {seq} to the head.")
        need(leaf["subject"] in {place, self.artifact}, "edited", "bundle.json names another leaf.")
        move = self.rules.moves.get(seq, {"approvals": [], "policy": None, "provenance": None})
        proof = self.rules.moves.get(move.get("original"), move)
        approvals = [self.rules.approvals[one][1]["approver"] for one in proof["approvals"]]
        bad = {b[4] for b, v in self.rules.verdicts.items() if b[1] == self.artifact and not v[1]}
        self.report |= {"subject": subject, "policy": proof["policy"], "approved_by": approvals}
        self.report |= {"by": self.names.get(leaf["actor"]), "provenance": proof["provenance"]}
        self.report["failed_gates"] = sorted(bad)

    def check_files(self):
        """Check evidence, provenance and bytes, and refuse what nothing accounts for."""
        for evidence in filter(None, self.rules.evidence.get(self.artifact, [])):
            self.read(f"objects/{evidence}", evidence)
        files = from_json(self.manifests[self.artifact], "a manifest")["files"]
        files *= self.about["bytes"] or (self.root / "files").is_dir()
        size = sum(entry["size"] for entry in files)
        self.report |= {"lineage": len(self.lineage), "files": len(files), "bytes": size}
        for entry in files:
            self.find(f"files/{entry['path']}", entry["sha256"])
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            known = not path.is_symlink() and (path.is_dir() or name in self.accounted)
            need(known, "unlisted", f"nothing in the log accounts for {name}.")


def check(root, key=None, kept=None):
    """Return a report; `ok` says whether the bundle holds, `kind` and `problem` why not."""
    try:
        return {"ok": True, **Check(root, key, kept).run()}
    except Problem as problem:
        return {"ok": False, "kind": problem.args[0], "problem": problem.args[1]}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        return {"ok": False, "kind": "malformed", "problem": f"{type(e).__name__}: {e}"}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check an exported bundle.")
    parser.add_argument("folder", nargs="?", default=Path(__file__).parent)
    parser.add_argument("--key", type=str.lower, help="the log's public key, in hexadecimal")
    parser.add_argument("--head", type=argparse.FileType(), help="a tree head that you kept")
    given = parser.parse_args(arguments)
    found = check(given.folder, given.key, given.head and given.head.read())
    print("\n".join(f"{name:12} {value}" for name, value in found.items()))
    if found["ok"] and not found["anchored"]:
        print(f"UNANCHORED: is {sha256(bytes.fromhex(found['log_key']))} the log key's SHA-256?")
    print("VERIFIED" if found["ok"] else f"NOT VERIFIED: {found['kind']}")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
