"""The rules of the ledger, replayed by its signer before it vouches for new leaves.

Whoever can write the database can write any row. The signer trusts none of them: it
starts from the keys in the first leaf, checks every signature, and decides every pointer
move again. A leaf that breaks a rule is never signed over.
"""

from collections.abc import Callable, Mapping
from typing import Any

from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.policy import PRODUCTION, Policy
from artifact_pipelines.domain.signing import PublicKey, SignedStatement
from artifact_pipelines.domain.stage import (
    ApprovalFact,
    PromotionCase,
    VerdictFact,
    decide_promotion,
    decide_rollback,
)
from artifact_pipelines.domain import digest
from artifact_pipelines.errors import ArtifactError, GovernanceError

Body = Mapping[str, Any]
State = dict[str, Any]
"""What the signer knows: plain JSON, so that it can be kept beside the last head."""


def begin() -> State:
    """Return the state before the first leaf."""
    return {
        "origin": None,
        "log_key": None,
        "keys": {},
        "policies": {},
        "pointers": {},
        "verdicts": {},
        "approvals": {},
        "proven": {},
        "recalled": [],
    }


def pointers(state: State) -> dict[str, int]:
    """Return the leaf that last moved each pointer, by project/stage."""
    return {name: pointer["seq"] for name, pointer in state["pointers"].items()}


def pointers_digest(found: Mapping[str, int]) -> str:
    """Return the digest that a tree head commits to."""
    return digest.sha256(digest.canonical(found))


def replay(state: State, leaf: Leaf, body: Body, policy_text: Callable[[str], bytes]) -> None:
    """Bring the state to that after a leaf.

    Args:
        state: The state; changed in place.
        leaf: The next leaf.
        body: Its body.
        policy_text: Returns the policy document of a digest.

    Raises:
        GovernanceError: The rules do not allow the leaf.
    """
    handler = _HANDLERS.get(leaf.action)
    if handler is None:
        return
    try:
        handler(state, leaf, body, policy_text)
    except GovernanceError:
        raise
    except (ArtifactError, KeyError, TypeError, ValueError) as error:
        raise GovernanceError(f"leaf {leaf.seq} ({leaf.action}) is not allowed: {error}") from error


def _log_create(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    if leaf.seq != 0:
        raise GovernanceError(f"leaf {leaf.seq} begins the log a second time.")
    state["origin"] = body["origin"]
    state["log_key"] = body["log_key"]
    _add_key(state, body["owner"]["name"], body["owner"]["public"], ["owner"])


def _key_register(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    said = _signed(state, leaf, body, "key", "owner")
    _add_key(state, said["name"], said["public"], said["roles"])


def _add_key(state: State, name: str, public: str, roles: list[str]) -> None:
    key = PublicKey.from_hex(public)
    if key.key_id in state["keys"] or name in {known["name"] for known in state["keys"].values()}:
        raise GovernanceError(f"the key {name!r} is registered twice.")
    state["keys"][key.key_id] = {"name": name, "public": public, "roles": sorted(roles)}


def _policy_set(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    said = _signed(state, leaf, body, "policy", "owner")
    state["policies"][said["project"]] = said["policy"]


def _verdict(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    said = _signed(state, leaf, body, "verdict", "gate")
    facts = state["verdicts"].setdefault(said["artifact"], {})
    facts[said["gate"]] = [leaf.seq, said["passed"], said["policy"], said["baseline"]]


def _approval(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    said = _signed(state, leaf, body, "approval", "approver")
    state["approvals"].setdefault(said["artifact"], []).append(
        [leaf.seq, said["project"], said["stage"], said["policy"], said["pointer"], body["key"]]
    )


def _recall(state: State, _leaf: Leaf, body: Body, _text: Any) -> None:
    state["recalled"] = sorted({*state["recalled"], body["artifact"], *body["descendants"]})


def _promote(
    state: State, leaf: Leaf, body: Body, policy_text: Callable[[str], bytes]
) -> None:
    said = _signed(state, leaf, body, "pointer", "operator")
    artifact, project, stage = said["artifact"], said["project"], said["stage"]
    policy = _policy(state, project, policy_text)
    case = PromotionCase(
        artifact=artifact,
        stage=stage,
        policy=policy,
        pointer=_pointer(state, project, stage)["seq"],
        baseline=_pointer(state, project, PRODUCTION)["artifact"],
        verdicts=[
            VerdictFact(fact[0], artifact, gate, fact[1], fact[2], fact[3])
            for gate, fact in state["verdicts"].get(artifact, {}).items()
        ],
        approvals=[
            ApprovalFact(seq, artifact, found_stage, found_policy, pointer, key, used=False)
            for seq, found_project, found_stage, found_policy, pointer, key in state["approvals"].get(
                artifact, []
            )
            if found_project == project
        ],
        recalled=artifact in state["recalled"],
    )
    decision = decide_promotion(case)
    reasons = list(decision.reasons)
    if said["pointer"] != case.pointer or said["policy"] != policy.digest:
        reasons.append("it was decided on another pointer or policy")
    if not set(said["approvals"]) <= set(decision.approvals):
        reasons.append("it uses approvals that are not its own")
    if reasons:
        raise GovernanceError(f"leaf {leaf.seq} promotes {artifact[:16]}: {'; '.join(reasons)}.")
    state["approvals"][artifact] = [
        fact for fact in state["approvals"].get(artifact, []) if fact[0] not in said["approvals"]
    ]
    state["proven"].setdefault(f"{project}/{stage}", {})[artifact] = leaf.seq
    _move(state, leaf, said)


def _rollback(state: State, leaf: Leaf, body: Body, _text: Any) -> None:
    said = _signed(state, leaf, body, "pointer", "operator")
    artifact, project, stage = said["artifact"], said["project"], said["stage"]
    current = _pointer(state, project, stage)
    proven = state["proven"].get(f"{project}/{stage}", {}).get(artifact)
    decision = decide_rollback(
        proven=proven is not None and proven == said["original"],
        recalled=artifact in state["recalled"],
        current=current["artifact"] == artifact,
    )
    reasons = list(decision.reasons)
    if said["pointer"] != current["seq"]:
        reasons.append("it was decided on another pointer")
    if reasons:
        raise GovernanceError(f"leaf {leaf.seq} rolls back to {artifact[:16]}: {'; '.join(reasons)}.")
    _move(state, leaf, said)


def _move(state: State, leaf: Leaf, said: Mapping[str, Any]) -> None:
    name = f"{said['project']}/{said['stage']}"
    if said["previous"] != _pointer(state, said["project"], said["stage"])["artifact"]:
        raise GovernanceError(f"leaf {leaf.seq} names another previous model than the log does.")
    state["pointers"][name] = {"artifact": said["artifact"], "seq": leaf.seq}


def _pointer(state: State, project: str, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = state["pointers"].get(
        f"{project}/{stage}", {"artifact": None, "seq": 0}
    )
    return found


def _policy(state: State, project: str, policy_text: Callable[[str], bytes]) -> Policy:
    name = state["policies"].get(project)
    if name is None:
        raise GovernanceError(f"the project {project!r} has no policy.")
    policy = Policy.of(digest.parse(policy_text(name)))
    if policy.digest != name:
        raise GovernanceError(f"the policy {name[:16]} is not the stored one.")
    return policy


def _signed(state: State, leaf: Leaf, body: Body, kind: str, role: str) -> dict[str, Any]:
    """Return what a statement says, once its key, role, kind and log are right."""
    signed = SignedStatement.from_body(body)
    key = state["keys"].get(signed.key)
    if key is None:
        raise GovernanceError(f"leaf {leaf.seq} is signed by the unregistered key {signed.key}.")
    if role not in key["roles"]:
        raise GovernanceError(f"leaf {leaf.seq} is signed by {key['name']!r}, who has no role {role}.")
    signed.verify(PublicKey.from_hex(key["public"]))
    said = signed.payload
    if said.get("type") != kind or said.get("origin") != state["origin"]:
        raise GovernanceError(f"leaf {leaf.seq} holds a statement of another kind or log.")
    return said


_HANDLERS: Mapping[str, Callable[[State, Leaf, Body, Any], None]] = {
    "log_create": _log_create,
    "key_register": _key_register,
    "policy_set": _policy_set,
    "verdict": _verdict,
    "approval": _approval,
    "recall": _recall,
    "promote": _promote,
    "rollback": _rollback,
}
