"""The rules of the ledger, replayed by its signer before it vouches for new leaves.

Whoever can write the database can write any row. The signer trusts none of them: it
starts from the keys in the first leaf, checks every signature, and decides every pointer
move again. A leaf that breaks a rule is never signed over.

A signature does not grow old, so a statement must not work a second time: a pointer move
and an approval name the pointer that they are about, a failed verdict is final for its
policy and baseline, and the statement that puts a policy in force counts once.

What an envelope is about is what its body is about: whoever holds the envelopes alone can
then tell which leaves concern a stage, a model or a project, and that none was left out.
A key signs until the leaf that revokes it; what it signed before stays valid.
"""

from collections.abc import Callable, Mapping
from typing import Any

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.policy import PRODUCTION, Policy
from artifact_pipelines.domain.schema import Mode
from artifact_pipelines.domain.signing import PublicKey, SignedStatement
from artifact_pipelines.domain.stage import (
    ApprovalFact,
    PromotionCase,
    VerdictFact,
    decide_promotion,
    decide_rollback,
)
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.errors import ArtifactError, GovernanceError

ROLES = ("approver", "gate", "operator", "owner")

_KEY_ID = 16

Body = Mapping[str, Any]
PolicyText = Callable[[str], bytes]
State = dict[str, Any]
"""What the signer knows: plain JSON, so that it can be kept beside the last head."""


def begin(owner: str | None = None) -> State:
    """Return the state before the first leaf.

    Args:
        owner: The public key in hexadecimal that the log must be begun by, where it is known.
    """
    return {
        "seq": -1,
        "origin": None,
        "log_key": None,
        "log_keys": [],
        "owner": owner,
        "keys": {},
        "policies": {},
        "schemas": {},
        "pointers": {},
        "verdicts": {},
        "requests": {},
        "approvals": {},
        "proven": {},
        "recalled": {},
        "holds": {},
    }


def pointers(state: State) -> dict[str, int]:
    """Return the leaf that last moved each pointer, by project/stage."""
    return {name: pointer["seq"] for name, pointer in state["pointers"].items()}


def pointers_digest(found: Mapping[str, int]) -> str:
    """Return the digest that a tree head commits to."""
    return digest.sha256(digest.canonical(found))


def replay(state: State, leaf: Leaf, body: Body | None, policy_text: PolicyText) -> None:
    """Bring the state to that after a leaf; where the leaf is refused it stays as it was.

    Args:
        state: The state; changed in place.
        leaf: The next leaf.
        body: Its body, from bytes that have the digest that the leaf cites; None once erased.
        policy_text: Returns the policy document of a digest.

    Raises:
        GovernanceError: The rules do not allow the leaf.
    """
    if leaf.seq <= state["seq"]:
        raise GovernanceError(f"leaf {leaf.seq} was replayed before.")
    handler = _HANDLERS.get(leaf.action)
    if handler is not None:
        if body is None:
            raise GovernanceError(
                f"the body of leaf {leaf.seq} ({leaf.action}) was erased before it was checked."
            )
        try:
            handler(state, leaf, body, policy_text)
        except GovernanceError:
            raise
        except (ArtifactError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise GovernanceError(
                f"leaf {leaf.seq} ({leaf.action}) is not allowed: {error!s}"
            ) from error
    state["seq"] = leaf.seq


def _log_create(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    if leaf.seq != 0:
        raise GovernanceError(f"leaf {leaf.seq} begins the log a second time.")
    origin, log_key = _texts(body, "origin", "log_key")
    _about(leaf, origin)
    name, public = _texts(body["owner"], "name", "public")
    if state["owner"] not in {None, public}:
        raise GovernanceError("the log was begun by another owner than the one expected.")
    _add_key(state, name, public, ["owner"])
    state["origin"], state["owner"] = origin, public
    _use_log_key(state, leaf, log_key)


def _log_rotate(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "log_key", "owner")
    (public,) = _texts(said, "public")
    _about(leaf, state["origin"])
    if public in {known for _, known in state["log_keys"]}:
        raise GovernanceError(f"leaf {leaf.seq} brings back a log key that was in use before.")
    PublicKey.from_hex(public)
    _use_log_key(state, leaf, public)


def _use_log_key(state: State, leaf: Leaf, public: str) -> None:
    """Have every tree head that covers a leaf signed by a key."""
    state["log_key"] = public
    state["log_keys"].append([leaf.seq, public])


def _key_register(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "key", "owner")
    roles = said["roles"]
    if not isinstance(roles, list) or not roles or any(role not in ROLES for role in roles):
        raise GovernanceError(f"leaf {leaf.seq} gives roles that are not among {', '.join(ROLES)}.")
    name, public = _texts(said, "name", "public")
    _about(leaf, name)
    _add_key(state, name, public, roles)


def _key_revoke(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "revocation", "owner")
    name, former = _texts(said, "name", "key")
    _about(leaf, name)
    owners = {
        known
        for known, key in state["keys"].items()
        if "owner" in key["roles"] and key["revoked"] is None
    }
    if owners == {former}:
        # Nobody could govern the log any more.
        raise GovernanceError(f"leaf {leaf.seq} revokes the last key of an owner.")
    _revoke(state, leaf, name, former)


def _key_rotate(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "rotation", "owner")
    name, former, public = _texts(said, "name", "key", "public")
    _about(leaf, name)
    PublicKey.from_hex(public)
    if digest.sha256(bytes.fromhex(public))[:_KEY_ID] in state["keys"]:
        raise GovernanceError(f"leaf {leaf.seq} brings back a key that was registered before.")
    roles = _revoke(state, leaf, name, former)
    _add_key(state, name, public, roles)


def _revoke(state: State, leaf: Leaf, name: str, former: str) -> list[str]:
    """End a key, and return the roles that it had."""
    key = state["keys"].get(former)
    if key is None or key["name"] != name or key["revoked"] is not None:
        raise GovernanceError(f"leaf {leaf.seq} revokes the key {name!r}, which is not in force.")
    key["revoked"] = leaf.seq
    roles: list[str] = key["roles"]
    return roles


def _add_key(state: State, name: str, public: str, roles: list[str]) -> None:
    naming.check_project(name)
    key = PublicKey.from_hex(public)
    in_force = {known["name"] for known in state["keys"].values() if known["revoked"] is None}
    if key.key_id in state["keys"] or name in in_force:
        raise GovernanceError(f"the key {name!r} is registered twice.")
    state["keys"][key.key_id] = {
        "name": name,
        "public": public,
        "roles": sorted(set(roles)),
        "revoked": None,
    }


def _policy_set(state: State, leaf: Leaf, body: Body, policy_text: PolicyText) -> None:
    said = _signed(state, leaf, body, "policy", "owner")
    project, policy = _texts(said, "project", "policy")
    _about(leaf, naming.check_project(project))
    if said["gates"] != list(_policy_of(policy, policy_text).required()):
        raise GovernanceError(f"leaf {leaf.seq} names other gates than its policy requires.")
    known = state["policies"].get(project, {"digest": None, "said": {}})
    statement = digest.sha256(body["statement"].encode())
    earlier = known["said"].get(statement)
    if policy == known["digest"]:
        # Two processes that put the same policy in force at once say the same.
        return
    if earlier is not None:
        raise GovernanceError(
            f"leaf {leaf.seq} puts a policy in force with the statement of leaf {earlier}; "
            "a statement counts once, so sign a new one with another nonce."
        )
    state["policies"][project] = {"digest": policy, "said": {**known["said"], statement: leaf.seq}}


def _schema_register(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "schema", "owner")
    project, name, layout, mode = _texts(said, "project", "name", "layout", "mode")
    place = f"{naming.check_project(project)}/{naming.check_schema(name)}"
    digest.check_sha256(layout, "a layout")
    known = state["schemas"].get(place, 0)
    if type(said["version"]) is not int or said["version"] != known + 1:
        raise GovernanceError(f"leaf {leaf.seq} is no version {known + 1} of the schema {place}.")
    Mode(mode)
    state["schemas"][place] = known + 1


def _verdict(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "verdict", "gate")
    project, artifact, gate, policy = _texts(said, "project", "artifact", "gate", "policy")
    _about(leaf, artifact)
    passed, baseline = Verdict.from_payload(said).passed, said["baseline"]
    bindings = state["verdicts"].setdefault(f"{naming.check_project(project)}/{artifact}", {})
    facts = bindings.setdefault(f"{policy}/{baseline or ''}", {})
    known = facts.get(gate)
    if known is None or (known[1] and not passed):
        facts[gate] = [leaf.seq, passed]


def _request(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    artifact, author = _texts(body, "artifact", "author")
    place = _place(body)
    _about(leaf, place)
    authors = state["requests"].setdefault(place, {}).setdefault(artifact, [])
    if author not in authors:
        authors.append(author)


def _approval(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "approval", "approver")
    place = _place(said)
    _about(leaf, place)
    artifact, policy, approver = _texts(said, "artifact", "policy", "approver")
    if approver != state["keys"][body["key"]]["name"]:
        raise GovernanceError(f"leaf {leaf.seq} is an approval in the name of somebody else.")
    if said["pointer"] == _pointer(state, place)["seq"]:
        fact = [leaf.seq, artifact, policy, approver, leaf.actor]
        state["approvals"].setdefault(place, []).append(fact)


def _alias_set(state: State, leaf: Leaf, body: Body, policy_text: PolicyText) -> None:
    project, name = _texts(body, "project", "name")
    place = f"{naming.check_project(project)}/{naming.check_stage(name)}"
    _about(leaf, place)
    stages = set()
    if project in state["policies"]:
        stages = set(_policy(state, project, policy_text).promotion)
    if place in state["pointers"] or name in stages:
        raise GovernanceError(f"leaf {leaf.seq} takes the name of the stage {name!r} for an alias.")


def _recall(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    _about(leaf, body["artifact"])
    for artifact in [body["artifact"], *body["descendants"]]:
        state["recalled"].setdefault(artifact, leaf.seq)


def _hold_place(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    (name,) = _texts(body, "name")
    state["holds"].setdefault(leaf.subject, {})[name] = leaf.seq


def _hold_lift(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    (name,) = _texts(body, "name")
    # Two processes that lift the same hold at once say the same.
    known = state["holds"].get(leaf.subject, {})
    known.pop(name, None)
    if not known:
        state["holds"].pop(leaf.subject, None)


def _forget(state: State, leaf: Leaf, _body: Body, _text: PolicyText) -> None:
    _check_unneeded(state, leaf, "forgets")


def _slim(state: State, leaf: Leaf, _body: Body, _text: PolicyText) -> None:
    _check_unneeded(state, leaf, "slims")


def _check_unneeded(state: State, leaf: Leaf, does: str) -> None:
    """Refuse to take bytes from what a stage points at or a hold keeps."""
    for place, pointer in state["pointers"].items():
        if pointer["artifact"] == leaf.subject:
            raise GovernanceError(f"leaf {leaf.seq} {does} the model that {place} points at.")
    for name, seq in sorted(state["holds"].get(leaf.subject, {}).items()):
        raise GovernanceError(f"leaf {leaf.seq} {does} what the hold {name!r} of leaf {seq} keeps.")


def _promote(state: State, leaf: Leaf, body: Body, policy_text: PolicyText) -> None:
    said = _signed(state, leaf, body, "pointer", "operator")
    place = _place(said)
    _about(leaf, place)
    artifact, project, stage = _texts(said, "artifact", "project", "stage")
    policy = _policy(state, project, policy_text)
    pointer = _pointer(state, place)["seq"]
    decision = decide_promotion(
        PromotionCase(
            artifact=artifact,
            stage=stage,
            policy=policy,
            pointer=pointer,
            baseline=_pointer(state, f"{project}/{PRODUCTION}")["artifact"],
            verdicts=_verdicts(state, project, artifact),
            # Only what the operator cites: an approval that is not used up is not used.
            approvals=[
                ApprovalFact(seq, approved, stage, digest_, pointer, approver, used=False, by=by)
                for seq, approved, digest_, approver, by in state["approvals"].get(place, [])
                if seq in said["approvals"]
            ],
            recalled=artifact in state["recalled"],
            authors=state["requests"].get(place, {}).get(artifact, []),
        )
    )
    reasons = [*decision.reasons, *_misplaced(state, said)]
    if said["policy"] != policy.digest:
        reasons.append("it was decided under another policy")
    if sorted(said["verdicts"]) != list(decision.verdicts):
        reasons.append("it does not cite the verdicts that it rests on")
    if sorted(said["approvals"]) != list(decision.approvals):
        reasons.append("it uses approvals that are not its own")
    if reasons:
        raise GovernanceError(f"leaf {leaf.seq} promotes {artifact[:16]}: {'; '.join(reasons)}.")
    state["proven"].setdefault(place, {})[artifact] = [leaf.seq, policy.digest]
    _move(state, leaf, place, artifact)


def _rollback(state: State, leaf: Leaf, body: Body, _text: PolicyText) -> None:
    said = _signed(state, leaf, body, "pointer", "operator")
    place = _place(said)
    _about(leaf, place)
    (artifact,) = _texts(said, "artifact")
    proof = state["proven"].get(place, {}).get(artifact)
    decision = decide_rollback(
        proven=proof is not None,
        recalled=artifact in state["recalled"],
        current=_pointer(state, place)["artifact"] == artifact,
    )
    reasons = [*decision.reasons, *_misplaced(state, said)]
    if proof is not None and proof != [said["original"], said["policy"]]:
        reasons.append("it does not cite the promotion that proved the model")
    if said["verdicts"] or said["approvals"]:
        reasons.append("it uses verdicts or approvals, which a rollback does not need")
    if reasons:
        raise GovernanceError(
            f"leaf {leaf.seq} rolls back to {artifact[:16]}: {'; '.join(reasons)}."
        )
    _move(state, leaf, place, artifact)


def _misplaced(state: State, said: Mapping[str, Any]) -> list[str]:
    """Return what a pointer move takes for granted and is not so."""
    current = _pointer(state, _place(said))
    reasons = []
    if said["pointer"] != current["seq"]:
        reasons.append("it was decided on another pointer")
    if said["previous"] != current["artifact"]:
        reasons.append("it names another previous model than the log does")
    return reasons


def _move(state: State, leaf: Leaf, place: str, artifact: str) -> None:
    """Point a stage at a model; approvals for the former pointer can never be used again."""
    state["pointers"][place] = {"artifact": artifact, "seq": leaf.seq}
    state["approvals"].pop(place, None)
    state["requests"].get(place, {}).pop(artifact, None)


def _verdicts(state: State, project: str, artifact: str) -> list[VerdictFact]:
    facts = []
    for binding, gates in state["verdicts"].get(f"{project}/{artifact}", {}).items():
        policy, _, baseline = binding.partition("/")
        facts += [
            VerdictFact(seq, artifact, gate, passed, policy, baseline or None)
            for gate, (seq, passed) in gates.items()
        ]
    return facts


def _place(said: Mapping[str, Any]) -> str:
    """Return project/stage, of names that hold no slash themselves."""
    project, stage = _texts(said, "project", "stage")
    return f"{naming.check_project(project)}/{naming.check_stage(stage)}"


def _pointer(state: State, place: str) -> dict[str, Any]:
    found: dict[str, Any] = state["pointers"].get(place, {"artifact": None, "seq": 0})
    return found


def _policy(state: State, project: str, policy_text: PolicyText) -> Policy:
    known = state["policies"].get(project)
    if known is None:
        raise GovernanceError(f"the project {project!r} has no policy.")
    return _policy_of(known["digest"], policy_text)


def _policy_of(name: str, policy_text: PolicyText) -> Policy:
    text = policy_text(name)
    if digest.sha256(text) != name:
        raise GovernanceError(f"the policy {name[:16]} is not the stored one.")
    return Policy.decode(text)


def _about(leaf: Leaf, subject: str) -> None:
    if leaf.subject != subject:
        raise GovernanceError(
            f"the envelope of leaf {leaf.seq} is about {leaf.subject!r}, its body about "
            f"{subject!r}."
        )


def _signed(state: State, leaf: Leaf, body: Body, kind: str, role: str) -> dict[str, Any]:
    """Return what a statement says, once its key, role, kind and log are right."""
    signed = SignedStatement.from_body(body)
    key = state["keys"].get(signed.key)
    if key is None:
        raise GovernanceError(f"leaf {leaf.seq} is signed by the unregistered key {signed.key}.")
    if key["revoked"] is not None:
        raise GovernanceError(
            f"leaf {leaf.seq} is signed by {key['name']!r}, whose key was revoked at leaf "
            f"{key['revoked']}."
        )
    if role not in key["roles"]:
        raise GovernanceError(
            f"leaf {leaf.seq} is signed by {key['name']!r}, who has no role {role}."
        )
    signed.verify(PublicKey.from_hex(key["public"]))
    said = signed.payload
    if said.get("type") != kind or said.get("origin") != state["origin"]:
        raise GovernanceError(f"leaf {leaf.seq} holds a statement of another kind or log.")
    return said


def _texts(said: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    found = tuple(said[name] for name in names)
    for name, value in zip(names, found, strict=True):
        if not isinstance(value, str):
            raise GovernanceError(f"the field {name!r} of a leaf body is not text.")
    return found


_HANDLERS: Mapping[str, Callable[[State, Leaf, Body, PolicyText], None]] = {
    "log_create": _log_create,
    "log_rotate": _log_rotate,
    "key_register": _key_register,
    "key_revoke": _key_revoke,
    "key_rotate": _key_rotate,
    "policy_set": _policy_set,
    "schema_register": _schema_register,
    "verdict": _verdict,
    "request": _request,
    "approval": _approval,
    "alias_set": _alias_set,
    "recall": _recall,
    "hold_place": _hold_place,
    "hold_lift": _hold_lift,
    "forget": _forget,
    "slim": _slim,
    "promote": _promote,
    "rollback": _rollback,
}
