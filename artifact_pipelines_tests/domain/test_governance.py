"""Whoever can write every row, but holds no key, gets no pointer moved."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_pipelines.catalog import fold
from artifact_pipelines.domain import digest, governance
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.errors import GovernanceError

ORIGIN = "artifact-pipelines/test"
PROJECT = "digits"
ANN, BOB = "a" * 32, "b" * 32
KEYS = {
    name: SigningKey.from_seed(digest.sha256(name.encode()).encode()[:32])
    for name in ("owner", "gate", "operator", "alice", "bob", "stranger")
}
FIRST, SECOND, THIRD = ("1" * 64, "2" * 64, "3" * 64)
POLICY = Policy.of({"promotion": {"staging": "automatic", "production": {"approvals": 1}}})
WEAK = Policy.of({"promotion": {"staging": "automatic", "production": "automatic"}})
STRICT = Policy.of({"promotion": {"production": {"approvals": 1, "author_may_approve": False}}})
TEXTS = {policy.digest: policy.encode() for policy in (POLICY, WEAK, STRICT)}


class Log:
    """A log that is replayed leaf by leaf, as its signer does."""

    def __init__(self) -> None:
        """Begin a log with a gate, an operator and two approvers."""
        self.state = governance.begin()
        self.texts = dict(TEXTS)
        self.seq = 0
        owner = {"name": "owner", "public": KEYS["owner"].public.hex}
        log_key = KEYS["stranger"].public.hex
        self.add("log_create", {"origin": ORIGIN, "log_key": log_key, "owner": owner})
        for name, role in (
            ("gate", "gate"),
            ("operator", "operator"),
            ("alice", "approver"),
            ("bob", "approver"),
        ):
            self.sign("key_register", key_said(name, [role]), "owner")
        self.policy(POLICY)

    def add(
        self,
        action: str,
        body: Mapping[str, Any] | None,
        *,
        actor: str = ANN,
        subject: str | None = None,
    ) -> int:
        """Append a leaf and return its number."""
        about = about_of(action, body) if subject is None else subject
        leaf = Leaf(self.seq, "2026-11-23T09:37:00.123456Z", actor, action, about, "0" * 64)
        self.seq += 1
        # As the signer keeps it: what JSON cannot hold would be lost here.
        self.state = json.loads(json.dumps(self.state))
        governance.replay(self.state, leaf, body, self.texts.__getitem__)
        return leaf.seq

    def sign(self, action: str, said: Mapping[str, Any], key: str, *, actor: str = ANN) -> int:
        """Append a signed leaf and return its number."""
        return self.add(action, KEYS[key].sign_statement(said).as_body(), actor=actor)

    def policy(self, policy: Policy, nonce: str = "") -> int:
        """Put a policy in force."""
        return self.sign("policy_set", {**policy_said(policy), "nonce": nonce}, "owner")

    def judge(self, model: str, policy: Policy = POLICY, *, passed: bool = True) -> list[int]:
        """Record a verdict of every gate against the model that is in production."""
        return [
            self.sign("verdict", self.verdict_said(model, gate, policy, passed=passed), "gate")
            for gate in policy.required()
        ]

    def verdict_said(
        self, model: str, gate: str, policy: Policy = POLICY, *, passed: bool = True
    ) -> dict[str, Any]:
        """Return the statement of a verdict."""
        return Verdict(
            project=PROJECT,
            artifact=model,
            gate=gate,
            passed=passed,
            policy=policy.digest,
            baseline=self.at("production")["artifact"],
            evaluation=None,
            gate_code="0" * 64,
            reasons=("as the test says",),
            values={},
            evidence=None,
        ).payload(ORIGIN)

    def approve(self, model: str, key: str = "alice", *, actor: str = BOB, **changes: Any) -> int:
        """Approve a model for production."""
        said = {
            "type": "approval",
            "origin": ORIGIN,
            "project": PROJECT,
            "stage": "production",
            "artifact": model,
            "policy": POLICY.digest,
            "pointer": self.at("production")["seq"],
            "approver": key,
            **changes,
        }
        return self.sign("approval", said, key, actor=actor)

    def said(self, model: str, stage: str, **changes: Any) -> dict[str, Any]:
        """Return the statement of a pointer move."""
        current = self.at(stage)
        return {
            "type": "pointer",
            "origin": ORIGIN,
            "project": PROJECT,
            "stage": stage,
            "artifact": model,
            "previous": current["artifact"],
            "pointer": current["seq"],
            "policy": POLICY.digest,
            "verdicts": [],
            "approvals": [],
            **changes,
        }

    def promote(self, model: str, stage: str, verdicts: Sequence[int], **changes: Any) -> int:
        """Promote a model."""
        said = self.said(model, stage, verdicts=list(verdicts), **changes)
        return self.sign("promote", said, "operator")

    def release(self, model: str) -> int:
        """Judge, approve and promote a model to production."""
        verdicts = self.judge(model)
        return self.promote(model, "production", verdicts, approvals=[self.approve(model)])

    def at(self, stage: str) -> dict[str, Any]:
        """Return where a pointer is."""
        nowhere = {"artifact": None, "seq": 0}
        found: dict[str, Any] = self.state["pointers"].get(f"{PROJECT}/{stage}", nowhere)
        return found


def about_of(action: str, body: Mapping[str, Any] | None) -> str:
    """Return what the envelope of a leaf says that it is about, as its writer finds it."""
    said: Any = dict(body or {})
    try:
        said = json.loads(said["statement"]) if "statement" in said else said
        if action == "alias_set":
            return f"{said['project']}/{said['name']}"
        if action in {"request", "approval", "promote", "rollback"}:
            return f"{said['project']}/{said['stage']}"
        field = {
            **dict.fromkeys(("key_register", "key_revoke", "key_rotate"), "name"),
            **dict.fromkeys(("log_create", "log_rotate"), "origin"),
            **dict.fromkeys(("verdict", "recall"), "artifact"),
            "policy_set": "project",
        }[action]
        found = str(said[field])
    except (KeyError, TypeError, ValueError):
        return "x"
    return found if found.isascii() and found.isprintable() and " " not in found else "x"


def policy_said(policy: Policy) -> dict[str, Any]:
    """Return the statement that puts a policy in force."""
    return {
        "type": "policy",
        "origin": ORIGIN,
        "project": PROJECT,
        "policy": policy.digest,
        "gates": list(policy.required()),
    }


def key_said(name: str, roles: Sequence[str], key: str | None = None) -> dict[str, Any]:
    public = KEYS[key or name].public.hex
    return {"type": "key", "origin": ORIGIN, "name": name, "public": public, "roles": list(roles)}


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_model_with_every_proof_reaches_production(log: Log) -> None:
    seq = log.release(FIRST)

    assert governance.pointers(log.state) == {"digits/production": seq}


def test_pointers_have_one_digest_whatever_their_order() -> None:
    one = governance.pointers_digest({"a/b": 1, "c/d": 2})

    assert one == governance.pointers_digest({"c/d": 2, "a/b": 1})
    assert one != governance.pointers_digest({"a/b": 2, "c/d": 1})


def test_every_leaf_that_a_rule_is_about_changes_a_table_too() -> None:
    assert governance._HANDLERS.keys() <= fold._HANDLERS.keys()


# Keys


@pytest.mark.parametrize("key", ["gate", "operator", "alice", "stranger"])
def test_only_the_owner_registers_keys_and_policies(log: Log, key: str) -> None:
    with pytest.raises(GovernanceError, match=r"no role owner|unregistered"):
        log.sign("key_register", key_said("stranger", ["operator"]), key)
    with pytest.raises(GovernanceError, match=r"no role owner|unregistered"):
        log.sign("policy_set", policy_said(WEAK), key)
    assert log.state["policies"][PROJECT]["digest"] == POLICY.digest


@pytest.mark.parametrize("key", ["owner", "operator", "alice", "stranger"])
def test_only_a_gate_gives_verdicts(log: Log, key: str) -> None:
    with pytest.raises(GovernanceError, match=r"no role gate|unregistered"):
        log.sign("verdict", log.verdict_said(FIRST, "safety"), key)


@pytest.mark.parametrize("key", ["owner", "gate", "alice", "stranger"])
def test_only_an_operator_moves_pointers(log: Log, key: str) -> None:
    said = log.said(FIRST, "staging", verdicts=log.judge(FIRST))

    with pytest.raises(GovernanceError, match=r"no role operator|unregistered"):
        log.sign("promote", said, key)
    assert log.at("staging")["artifact"] is None


@pytest.mark.parametrize("key", ["owner", "gate", "operator", "stranger"])
def test_only_an_approver_approves(log: Log, key: str) -> None:
    with pytest.raises(GovernanceError, match=r"no role approver|unregistered"):
        log.approve(FIRST, key)


def test_nobody_approves_in_the_name_of_another(log: Log) -> None:
    with pytest.raises(GovernanceError, match="name of somebody else"):
        log.approve(FIRST, "alice", approver="bob")


@pytest.mark.parametrize(
    "said",
    [
        key_said("alice", ["owner"], "stranger"),
        key_said("mallory", ["owner"], "alice"),
        key_said("stranger", ["root"]),
        key_said("stranger", []),
        {**key_said("stranger", ["gate"]), "roles": "gate"},
        {**key_said("stranger", ["gate"]), "public": "00"},
        {**key_said("stranger", ["gate"]), "name": "a/b"},
    ],
)
def test_a_registration_that_would_confuse_keys_is_refused(
    log: Log, said: Mapping[str, Any]
) -> None:
    with pytest.raises(GovernanceError):
        log.sign("key_register", said, "owner")
    assert len(log.state["keys"]) == 5


def test_an_owner_that_is_registered_may_register_others(log: Log) -> None:
    log.sign("key_register", key_said("stranger", ["owner", "gate"]), "owner")
    KEYS["new"] = SigningKey.generate()
    log.sign("key_register", key_said("new", ["gate"]), "stranger")

    assert len(log.state["keys"]) == 7


# Forged rows


def test_a_log_is_begun_once(log: Log) -> None:
    owner = {"name": "mallory", "public": KEYS["stranger"].public.hex}

    with pytest.raises(GovernanceError, match="begins the log a second time"):
        log.add("log_create", {"origin": ORIGIN, "log_key": "00", "owner": owner})


def test_a_log_of_another_owner_is_refused_where_the_owner_is_known() -> None:
    state = governance.begin(KEYS["owner"].public.hex)
    owner = {"name": "owner", "public": KEYS["stranger"].public.hex}
    leaf = Leaf(0, "2026-11-23T09:37:00.123456Z", ANN, "log_create", ORIGIN, "0" * 64)

    with pytest.raises(GovernanceError, match="another owner"):
        governance.replay(
            state, leaf, {"origin": ORIGIN, "log_key": "00", "owner": owner}, TEXTS.__getitem__
        )


def test_a_leaf_is_replayed_once(log: Log) -> None:
    log.seq -= 1

    with pytest.raises(GovernanceError, match="was replayed before"):
        log.policy(WEAK)


def test_a_leaf_whose_body_is_gone_cannot_be_trusted(log: Log) -> None:
    log.add("publish", None)

    with pytest.raises(GovernanceError, match="was erased"):
        log.add("recall", None)


def test_an_edited_statement_is_refused(log: Log) -> None:
    said = log.said(FIRST, "staging", verdicts=log.judge(FIRST))
    body = KEYS["operator"].sign_statement(said).as_body()

    for name, value in (
        ("statement", body["statement"].replace(FIRST, SECOND)),
        ("signature", KEYS["operator"].sign_statement(log.said(SECOND, "staging")).signature),
        ("key", KEYS["gate"].key_id),
    ):
        with pytest.raises(GovernanceError):
            log.add("promote", {**body, name: value})
    assert log.at("staging")["artifact"] is None


@pytest.mark.parametrize("name,value", [("type", "approval"), ("origin", "other.example/log")])
def test_a_statement_of_another_kind_or_log_is_refused(log: Log, name: str, value: str) -> None:
    said = log.said(FIRST, "staging", verdicts=log.judge(FIRST), **{name: value})

    with pytest.raises(GovernanceError, match="another kind or log"):
        log.sign("promote", said, "operator")


def test_a_policy_text_that_is_not_the_one_in_force_is_refused(log: Log) -> None:
    verdicts = log.judge(FIRST)
    log.texts[POLICY.digest] = WEAK.encode()

    with pytest.raises(GovernanceError, match="not the stored one"):
        log.promote(FIRST, "production", verdicts)


def test_a_stage_cannot_be_named_so_that_it_is_read_as_another(log: Log) -> None:
    log.state["policies"]["digits/a"] = log.state["policies"][PROJECT]
    said = log.said(FIRST, "production", verdicts=log.judge(FIRST), project="digits/a")

    with pytest.raises(GovernanceError, match="is not allowed"):
        log.sign("promote", said, "operator")


# Promotion


def test_a_promotion_without_verdicts_is_refused(log: Log) -> None:
    with pytest.raises(GovernanceError, match="integrity has no verdict"):
        log.promote(FIRST, "staging", [])


def test_a_failed_gate_stays_failed_when_an_old_pass_is_entered_again(log: Log) -> None:
    passed = KEYS["gate"].sign_statement(log.verdict_said(FIRST, "safety")).as_body()
    verdicts = log.judge(FIRST)
    log.sign("verdict", log.verdict_said(FIRST, "safety", passed=False), "gate")
    verdicts[-1] = log.add("verdict", passed)

    with pytest.raises(GovernanceError, match="the gate safety failed"):
        log.promote(FIRST, "staging", verdicts)


def test_a_verdict_of_another_project_does_not_count(log: Log) -> None:
    verdicts = [
        log.sign("verdict", {**log.verdict_said(FIRST, gate), "project": "churn"}, "gate")
        for gate in POLICY.required()
    ]

    with pytest.raises(GovernanceError, match="has no verdict"):
        log.promote(FIRST, "staging", verdicts)


def test_a_verdict_against_a_former_production_model_does_not_count(log: Log) -> None:
    verdicts = log.judge(SECOND)
    log.release(FIRST)

    with pytest.raises(GovernanceError, match="another production model"):
        log.promote(SECOND, "staging", verdicts)


def test_a_verdict_under_a_former_policy_does_not_count(log: Log) -> None:
    verdicts = log.judge(FIRST)
    log.policy(WEAK)

    with pytest.raises(GovernanceError, match="under the policy in force"):
        log.promote(FIRST, "staging", verdicts, policy=WEAK.digest)


def test_a_promotion_must_name_the_policy_that_it_was_decided_under(log: Log) -> None:
    log.policy(WEAK)

    with pytest.raises(GovernanceError, match="another policy"):
        log.promote(FIRST, "staging", log.judge(FIRST, WEAK))


def test_a_policy_that_was_replaced_does_not_come_back_by_its_old_statement(log: Log) -> None:
    body = KEYS["owner"].sign_statement(policy_said(WEAK)).as_body()
    log.add("policy_set", body)
    log.add("policy_set", body)
    log.policy(POLICY, "again")

    with pytest.raises(GovernanceError, match="counts once"):
        log.add("policy_set", body)
    assert log.state["policies"][PROJECT]["digest"] == POLICY.digest
    log.policy(WEAK, "and again")
    assert log.state["policies"][PROJECT]["digest"] == WEAK.digest


def test_a_promotion_cites_the_verdicts_that_it_rests_on(log: Log) -> None:
    verdicts = log.judge(FIRST)

    for cited in ([], verdicts[:1], [*verdicts, 1], [verdicts[0], verdicts[0]]):
        with pytest.raises(GovernanceError, match="cite the verdicts"):
            log.promote(FIRST, "staging", cited)


@pytest.mark.parametrize("changes", [{"pointer": 1}, {"previous": SECOND}])
def test_a_move_is_bound_to_the_pointer_that_it_was_decided_on(
    log: Log, changes: dict[str, Any]
) -> None:
    verdicts = log.judge(FIRST)

    with pytest.raises(GovernanceError, match="another p"):
        log.promote(FIRST, "staging", verdicts, **changes)


def test_a_promotion_cannot_be_entered_a_second_time(log: Log) -> None:
    body = (
        KEYS["operator"]
        .sign_statement(log.said(FIRST, "staging", verdicts=log.judge(FIRST)))
        .as_body()
    )
    log.add("promote", body)
    log.promote(SECOND, "staging", log.judge(SECOND))

    with pytest.raises(GovernanceError, match="another pointer"):
        log.add("promote", body)
    assert log.at("staging")["artifact"] == SECOND


def test_a_recalled_model_goes_nowhere(log: Log) -> None:
    log.release(FIRST)
    log.release(SECOND)
    log.add("recall", {"artifact": "d" * 64, "descendants": [FIRST, THIRD]})

    with pytest.raises(GovernanceError, match="recalled"):
        log.promote(THIRD, "staging", log.judge(THIRD))
    with pytest.raises(GovernanceError, match="recalled"):
        log.sign("rollback", back(log, FIRST), "operator")


def test_what_a_stage_points_at_is_not_forgotten(log: Log) -> None:
    log.release(FIRST)
    log.add("forget", {}, subject=SECOND)

    with pytest.raises(GovernanceError, match="digits/production points at"):
        log.add("forget", {}, subject=FIRST)


@pytest.mark.parametrize("action, does", [("forget", "forgets"), ("slim", "slims")])
def test_what_a_hold_keeps_loses_nothing_until_it_is_lifted(
    log: Log, action: str, does: str
) -> None:
    hold = {"project": PROJECT, "name": "lawsuit", "reason": "asked for", "inputs": False}
    placed = log.add("hold_place", hold, subject=THIRD)
    log.add("hold_place", {**hold, "name": "paper"}, subject=THIRD)
    log.add("hold_lift", {**hold, "name": "paper"}, subject=THIRD)

    with pytest.raises(GovernanceError, match=f"{does} what the hold 'lawsuit' of leaf {placed}"):
        log.add(action, {}, subject=THIRD)

    log.add("hold_lift", hold, subject=THIRD)
    log.add("hold_lift", hold, subject=THIRD)
    log.add(action, {}, subject=THIRD)
    assert log.state["holds"] == {}


# Approvals


def test_production_needs_an_approval_that_it_cites(log: Log) -> None:
    verdicts = log.judge(FIRST)
    log.approve(FIRST)

    with pytest.raises(GovernanceError, match="0 of 1 approvals"):
        log.promote(FIRST, "production", verdicts)


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": SECOND},
        {"stage": "staging"},
        {"policy": WEAK.digest},
        {"pointer": 1},
        {"project": "churn"},
    ],
)
def test_an_approval_is_for_one_model_stage_policy_and_pointer(
    log: Log, changes: dict[str, Any]
) -> None:
    verdicts = log.judge(FIRST)
    approval = log.approve(**{"model": FIRST, **changes})

    with pytest.raises(GovernanceError, match="0 of 1 approvals"):
        log.promote(FIRST, "production", verdicts, approvals=[approval])


def test_an_approval_is_used_once(log: Log) -> None:
    body = (
        KEYS["alice"]
        .sign_statement(
            {
                "type": "approval",
                "origin": ORIGIN,
                "project": PROJECT,
                "stage": "production",
                "artifact": FIRST,
                "policy": POLICY.digest,
                "pointer": 0,
                "approver": "alice",
            }
        )
        .as_body()
    )
    approval = log.add("approval", body)
    log.promote(FIRST, "production", log.judge(FIRST), approvals=[approval])
    log.release(SECOND)
    verdicts = log.judge(FIRST)
    again = log.add("approval", body)

    for cited in ([approval], [again], [approval, again]):
        with pytest.raises(GovernanceError, match="0 of 1 approvals"):
            log.promote(FIRST, "production", verdicts, approvals=cited)


def test_an_approval_that_is_not_there_cannot_be_cited(log: Log) -> None:
    verdicts, approval = log.judge(FIRST), log.approve(FIRST)

    with pytest.raises(GovernanceError, match="approvals that are not its own"):
        log.promote(FIRST, "production", verdicts, approvals=[approval, 999])


def test_whoever_asked_cannot_approve_where_the_policy_says_so(log: Log) -> None:
    log.policy(STRICT)
    verdicts = log.judge(FIRST, STRICT)
    request = {"project": PROJECT, "stage": "production", "artifact": FIRST, "author": ANN}
    log.add("request", request)
    own = log.approve(FIRST, actor=ANN, policy=STRICT.digest)
    other = log.approve(FIRST, "bob", actor=BOB, policy=STRICT.digest)

    with pytest.raises(GovernanceError, match="author's own does not count"):
        log.promote(FIRST, "production", verdicts, policy=STRICT.digest, approvals=[own])
    log.promote(FIRST, "production", verdicts, policy=STRICT.digest, approvals=[other])
    assert log.at("production")["artifact"] == FIRST


# Rollback


def back(log: Log, model: str, **changes: Any) -> dict[str, Any]:
    original, policy = log.state["proven"].get(f"{PROJECT}/production", {}).get(model, [0, ""])
    said = log.said(model, "production", policy=policy, original=original, reason="it was better")
    return {**said, **changes}


def test_a_rollback_goes_back_and_forward(log: Log) -> None:
    log.release(FIRST)
    log.release(SECOND)

    for model in (FIRST, SECOND, FIRST):
        seq = log.sign("rollback", back(log, model), "operator")
        assert log.at("production") == {"artifact": model, "seq": seq}


def test_todays_policy_does_not_stand_in_the_way_of_a_rollback(log: Log) -> None:
    log.release(FIRST)
    log.release(SECOND)
    log.policy(STRICT)
    log.sign("rollback", back(log, FIRST), "operator")

    assert log.at("production")["artifact"] == FIRST


@pytest.mark.parametrize(
    "model,changes,reason",
    [
        (THIRD, {}, "never promoted to this stage"),
        (SECOND, {}, "points at it already"),
        (FIRST, {"original": 1}, "cite the promotion"),
        (FIRST, {"policy": WEAK.digest}, "cite the promotion"),
        (FIRST, {"pointer": 0}, "another pointer"),
        (FIRST, {"previous": FIRST}, "another previous model"),
        (FIRST, {"stage": "staging"}, "never promoted to this stage"),
        (FIRST, {"approvals": [1]}, "does not need"),
        (FIRST, {"verdicts": [1]}, "does not need"),
    ],
)
def test_a_rollback_is_refused_with_its_reason(
    log: Log, model: str, changes: dict[str, Any], reason: str
) -> None:
    log.release(FIRST)
    log.release(SECOND)

    with pytest.raises(GovernanceError, match=reason):
        log.sign("rollback", back(log, model, **changes), "operator")
    assert log.at("production")["artifact"] == SECOND


def test_a_rollback_cannot_be_entered_a_second_time(log: Log) -> None:
    log.release(FIRST)
    log.release(SECOND)
    body = KEYS["operator"].sign_statement(back(log, FIRST)).as_body()
    log.add("rollback", body)
    log.sign("rollback", back(log, SECOND), "operator")

    with pytest.raises(GovernanceError, match="another pointer"):
        log.add("rollback", body)


# An attacker without a key

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([FIRST, "x"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["statement", "key", "signature", "owner", "artifact", "x"]), children
        )
    ),
    max_leaves=8,
)


changes_drawn = st.dictionaries(
    st.sampled_from(["artifact", "stage", "project", "pointer", "previous", "policy"]),
    st.sampled_from([None, 0, THIRD, PROJECT, "staging", "production", WEAK.digest]),
    max_size=3,
)


@pytest.fixture(scope="module")
def recorded() -> tuple[Log, list[dict[str, Any]]]:
    """A log with history, and every signed body that an attacker can read in it."""
    log, bodies = Log(), []
    add = log.add

    def keep(action: str, body: Mapping[str, Any] | None, **more: Any) -> int:
        bodies.append(dict(body or {}))
        return add(action, body, **more)

    log.add = keep  # type: ignore[method-assign]
    log.release(FIRST)
    log.release(SECOND)
    log.sign("rollback", back(log, FIRST), "operator")
    log.judge(THIRD, passed=False)
    log.policy(WEAK, "weak")
    log.policy(POLICY, "strict")
    del log.add
    return log, bodies


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_without_a_key_no_rows_move_a_pointer(
    recorded: tuple[Log, list[dict[str, Any]]], data: st.DataObject
) -> None:
    log, bodies = copy.deepcopy(recorded[0]), recorded[1]
    before = (copy.deepcopy(log.state["pointers"]), log.state["policies"][PROJECT]["digest"])
    keys = copy.deepcopy(log.state["keys"])
    for _ in range(data.draw(st.integers(1, 4))):
        action = data.draw(st.sampled_from(sorted(governance._HANDLERS)))
        drawn = st.dictionaries(st.sampled_from(["statement", "key", "artifact", "owner"]), junk)
        body = dict(data.draw(st.sampled_from(bodies) | drawn))
        if "signature" in body:
            said = digest.parse(body["statement"].encode())
            said |= data.draw(changes_drawn)
            forged = KEYS["stranger"].sign_statement(said).as_body()
            names = data.draw(st.sets(st.sampled_from(sorted(forged))))
            body |= {name: forged[name] for name in names}
        try:
            log.add(action, body)
        except GovernanceError:
            continue

    assert (log.state["pointers"], log.state["policies"][PROJECT]["digest"]) == before
    assert log.state["keys"] == keys


# Schemas


def schema_said(version: object, **changes: Any) -> dict[str, Any]:
    said = {"type": "schema", "origin": ORIGIN, "project": PROJECT, "name": "mlp"}
    return {**said, "version": version, "layout": "1" * 64, "mode": "FULL", **changes}


def test_versions_of_a_schema_follow_each_other(log: Log) -> None:
    log.sign("schema_register", schema_said(1), "owner")
    log.sign("schema_register", schema_said(2), "owner")

    assert log.state["schemas"] == {f"{PROJECT}/mlp": 2}


@pytest.mark.parametrize(
    "said, key",
    [
        (schema_said(1), "operator"),
        (schema_said(2), "owner"),
        (schema_said(0), "owner"),
        (schema_said(True), "owner"),
        (schema_said(1, mode="SIDEWAYS"), "owner"),
        (schema_said(1, layout="1"), "owner"),
        (schema_said(1, name="a/b"), "owner"),
        (schema_said(1, type="policy"), "owner"),
    ],
)
def test_a_schema_that_is_not_the_owners_next_is_refused(
    log: Log, said: dict[str, Any], key: str
) -> None:
    with pytest.raises(GovernanceError):
        log.sign("schema_register", said, key)

    assert log.state["schemas"] == {}


def test_a_version_of_a_schema_counts_once(log: Log) -> None:
    log.sign("schema_register", schema_said(1), "owner")

    with pytest.raises(GovernanceError, match="is no version 2"):
        log.sign("schema_register", schema_said(1), "owner")


# Keys that end


def ended(name: str, key: str | None = None, **more: Any) -> dict[str, Any]:
    kind = "rotation" if more else "revocation"
    known = KEYS[key or name].key_id
    return {"type": kind, "origin": ORIGIN, "name": name, "key": known, "reason": "", **more}


def test_a_revoked_key_signs_nothing_more_and_what_it_signed_counts(log: Log) -> None:
    verdicts, approval = log.judge(FIRST), log.approve(FIRST)
    log.sign("key_revoke", ended("gate"), "owner")
    log.sign("key_revoke", ended("alice"), "owner")
    log.promote(FIRST, "production", verdicts, approvals=[approval])

    with pytest.raises(GovernanceError, match="was revoked at leaf"):
        log.judge(SECOND)
    with pytest.raises(GovernanceError, match="was revoked at leaf"):
        log.approve(SECOND)


def test_a_rotated_key_hands_over_its_name_and_roles(log: Log) -> None:
    fresh = KEYS["stranger"].public.hex
    log.sign("key_rotate", ended("gate", public=fresh), "owner")
    log.sign("verdict", log.verdict_said(FIRST, "safety"), "stranger")

    with pytest.raises(GovernanceError, match="was revoked"):
        log.sign("verdict", log.verdict_said(FIRST, "safety"), "gate")
    with pytest.raises(GovernanceError, match="registered before"):
        log.sign("key_rotate", ended("gate", "stranger", public=KEYS["gate"].public.hex), "owner")


@pytest.mark.parametrize(
    "said,reason",
    [
        (ended("owner"), "last key of an owner"),
        (ended("alice", "bob"), "not in force"),
        (ended("stranger"), "not in force"),
    ],
)
def test_a_revocation_that_would_lose_the_log_or_miss_its_key_is_refused(
    log: Log, said: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(GovernanceError, match=reason):
        log.sign("key_revoke", said, "owner")
    assert all(key["revoked"] is None for key in log.state["keys"].values())


@pytest.mark.parametrize("key", ["gate", "operator", "alice", "stranger"])
def test_only_an_owner_ends_keys(log: Log, key: str) -> None:
    log_key = {"type": "log_key", "origin": ORIGIN, "public": KEYS["bob"].public.hex}
    for action, said in (
        ("key_revoke", ended("bob")),
        ("key_rotate", ended("bob", public=SigningKey.generate().public.hex)),
        ("log_rotate", log_key),
    ):
        with pytest.raises(GovernanceError, match=r"no role owner|unregistered"):
            log.sign(action, said, key)


def test_the_logs_key_is_followed_by_a_new_one_only(log: Log) -> None:
    def said(key: str) -> dict[str, Any]:
        return {"type": "log_key", "origin": ORIGIN, "public": KEYS[key].public.hex}

    seq = log.sign("log_rotate", said("bob"), "owner")

    assert log.state["log_keys"][-1] == [seq, KEYS["bob"].public.hex]
    with pytest.raises(GovernanceError, match="in use before"):
        log.sign("log_rotate", said("stranger"), "owner")


def test_an_envelope_is_about_what_its_body_is_about(log: Log) -> None:
    body = KEYS["gate"].sign_statement(log.verdict_said(FIRST, "safety")).as_body()

    with pytest.raises(GovernanceError, match="is about"):
        log.add("verdict", body, subject=SECOND)


def test_a_policy_names_the_gates_that_it_requires(log: Log) -> None:
    with pytest.raises(GovernanceError, match="other gates"):
        log.sign("policy_set", {**policy_said(WEAK), "gates": []}, "owner")


def test_an_alias_takes_no_stages_name(log: Log) -> None:
    body = {"project": PROJECT, "name": "champion", "artifact": FIRST, "reason": ""}
    log.add("alias_set", body)
    log.add("alias_set", {**body, "artifact": None})

    for name in ("production", "staging"):
        with pytest.raises(GovernanceError, match="name of the stage"):
            log.add("alias_set", {**body, "name": name})
    with pytest.raises(GovernanceError, match="is about"):
        log.add("alias_set", body, subject="digits/production")
