"""A pointer moves with proof or not at all."""

import base64
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.errors import (
    GovernanceError,
    KeyMissingError,
    LedgerError,
    PromotionRefusedError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry, steps
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Databases

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier


def test_a_model_without_verdicts_is_refused(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    model = registry.publish_model(building.run(registry, "run-1")[0])

    with pytest.raises(PromotionRefusedError, match="integrity, safety has no verdict"):
        registry.promote(model.reference, "staging")
    assert registry.stages(PROJECT) == {}


def test_a_model_that_failed_a_gate_is_refused(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    model = registry.publish_model(building.run(registry, "run-1")[0])
    building.judge(registry, model, passed=False)

    with pytest.raises(PromotionRefusedError, match="gates integrity, safety failed"):
        registry.promote(model.reference, "staging")


def test_production_needs_an_approval(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")

    with pytest.raises(PromotionRefusedError, match="0 of 1 approvals"):
        registry.promote(model.reference, "production")
    building.approve(registry, model)
    assert registry.promote(model.reference, "production").changed


def test_an_approval_needs_a_request_and_a_registered_key(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")

    with pytest.raises(PromotionRefusedError, match="nobody has requested it"):
        registry.approve(model.reference, "production", "alice")
    registry.request(model.reference, "production")
    with pytest.raises(KeyMissingError, match="key create alice"):
        registry.approve(model.reference, "production", "alice")


def test_an_approval_is_used_once(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.promoted(registry, "run-2", seed=2)
    registry.rollback(PROJECT, "production", to=first.reference)
    building.judge(registry, second)

    with pytest.raises(PromotionRefusedError, match="0 of 1 approvals"):
        registry.promote(second.reference, "production")


def test_a_verdict_against_another_baseline_does_not_count(registry: Registry) -> None:
    late = building.candidate(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)

    with pytest.raises(PromotionRefusedError, match="another production model"):
        registry.promote(late.reference, "staging")


def test_a_verdict_under_another_policy_does_not_count(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    stricter = Policy.of({**building.POLICY.document(), "retention": {"keep": {"last": 9}}})
    registry.set_policy(PROJECT, stricter)

    with pytest.raises(PromotionRefusedError, match="no verdict under the policy in force"):
        registry.promote(model.reference, "staging")


def test_damaged_bytes_are_not_promoted(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    flip(registry)

    with pytest.raises(PromotionRefusedError, match="is damaged"):
        registry.promote(model.reference, "staging")


def test_resolve_serves_what_the_signed_log_proves(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    found = registry.resolve("digits@production")

    assert found.model == model
    leaf, _, pointers = found.proof.verify(registry.log_key())
    assert leaf.action == "promote"
    assert pointers["digits/production"] == found.seq


@pytest.mark.parametrize("change", ["content = 'f00d'", "version = 9", "seq = seq - 1"])
def test_a_served_models_row_edited_in_sql_is_refused(registry: Registry, change: str) -> None:
    model = building.promoted(registry, "run-1")
    edit(registry, f"update artifact set {change} where id = '{model.id}'")

    with pytest.raises(LedgerError, match="not what was signed"):
        registry.resolve(f"{PROJECT}@production")


def test_a_pointer_edited_in_sql_changes_nothing_that_is_served(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.promoted(registry, "run-2", seed=2)
    edit(registry, f"update stage set artifact = '{first.id}' where stage = 'production'")

    assert registry.resolve("digits@production").model == second
    assert "table stage was changed" in registry.verify_ledger().problems[0]


def test_nothing_rests_on_a_pointer_edited_in_sql(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    leaves = registry.catalog.read(ledger.head).size
    edit(registry, f"update stage set artifact = '{first.id}' where stage = 'production'")
    asked: list[Callable[[], object]] = [
        lambda: registry.promote(first.reference, "production"),
        lambda: registry.rollback(PROJECT, "production"),
        lambda: registry.find(f"{PROJECT}@production"),
        lambda: registry.why_not(first.reference, "production"),
        lambda: registry.baseline(PROJECT),
    ]
    for ask in asked:
        with pytest.raises(LedgerError, match=f"{first.id[:16]}, and the ledger says"):
            ask()
    edit(registry, "delete from stage")
    with pytest.raises(LedgerError, match="points at nothing, and the ledger says"):
        registry.promote(first.reference, "production")

    assert registry.catalog.read(ledger.head).size == leaves


@pytest.mark.parametrize(
    "change",
    [
        "update stage_history set artifact = 'f00d' where seq = {seq}",
        "delete from stage_history where seq = {seq}",
        """insert into stage_history
        select seq + 1, project, stage, artifact, previous, action, original, policy
        from stage_history where seq = {seq}""",
    ],
)
def test_a_history_edited_in_sql_is_named(registry: Registry, change: str) -> None:
    building.promoted(registry, "run-1")
    seq = registry.resolve(f"{PROJECT}@production").seq
    edit(registry, change.format(seq=seq))
    named = seq + 1 if change.startswith("insert") else seq

    with pytest.raises(LedgerError, match=f"history of digits@production .* leaf {named};"):
        registry.history(PROJECT, "production")


def test_a_leaf_edited_in_sql_is_named(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    # On SQLite the bytes become a text.
    lite = registry.catalog.url.get_backend_name() == "sqlite"
    changed = "replace(envelope, 'a', 'b')" if lite else "envelope || 'x'::bytea"
    edit(registry, f"update leaf set envelope = {changed} where seq = 5")

    assert any("leaf 5" in problem for problem in registry.verify_ledger().problems)


def test_a_forged_promotion_is_never_signed_over(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    model = registry.publish_model(building.run(registry, "run-2", seed=2)[0])
    stranger = SigningKey.generate()
    pointer = registry.resolve("digits@production").seq
    forged = stranger.sign_statement(
        {
            "type": "pointer",
            "origin": registry.origin,
            "project": PROJECT,
            "stage": "production",
            "artifact": model.id,
            "previous": registry.baseline(PROJECT),
            "pointer": pointer,
            "policy": building.POLICY.digest,
            "verdicts": [],
            "approvals": [],
        }
    )
    registry.append("promote", "digits/production", forged.as_body())

    with pytest.raises(GovernanceError, match="unregistered key"):
        registry.sign_head()
    assert registry.resolve("digits@production").seq == pointer
    assert registry.resolve("digits@production").pending
    assert not registry.verify_ledger().ok


def test_an_operator_cannot_promote_without_verdicts(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    model = registry.publish_model(building.run(registry, "run-1")[0])
    forged = registry.keys.load("service").sign_statement(
        {
            "type": "pointer",
            "origin": registry.origin,
            "project": PROJECT,
            "stage": "staging",
            "artifact": model.id,
            "previous": None,
            "pointer": 0,
            "policy": building.POLICY.digest,
            "verdicts": [],
            "approvals": [],
        }
    )
    registry.append("promote", "digits/staging", forged.as_body())

    with pytest.raises(GovernanceError, match="has no verdict"):
        registry.sign_head()


def test_a_changed_leaf_is_never_signed_over(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    for count in (1, 300):
        change = tables.leaf.update().values(nodes=b"\0" * count)
        registry.catalog.write(_run, change)
        building.dataset(registry, rows=count)

        with pytest.raises(LedgerError):
            registry.sign_head()


def _run(tx: Transaction, change: sa.Update) -> None:
    tx.conn.execute(change)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"statement":"{}"}'])
def test_a_move_whose_body_was_changed_is_not_served(registry: Registry, body: bytes) -> None:
    building.promoted(registry, "run-1")
    move = registry.history(PROJECT, "production")[-1]
    table = tables.leaf
    registry.catalog.write(_run, table.update().where(table.c.seq == move.seq).values(body=body))

    with pytest.raises(LedgerError, match="is no move"):
        registry.resolve("digits@production")


@pytest.mark.parametrize("column", ["seq", "content", "version"])
def test_a_row_that_is_not_what_was_signed_is_not_served(registry: Registry, column: str) -> None:
    model = building.promoted(registry, "run-1")
    value = {"seq": 1, "content": "0" * 64, "version": 9}[column]
    edit(registry, "delete from ancestry")
    edit(registry, f"update artifact set {column} = '{value}' where id = '{model.id}'")

    with pytest.raises(LedgerError, match="is not what was signed for it"):
        registry.resolve("digits@production")


def test_a_log_that_was_cut_short_is_never_signed_over(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    edit(registry, "update ledger_head set size = size - 1")

    with pytest.raises(LedgerError, match="cut off"):
        registry.sign_head()


def test_a_stage_that_the_policy_lacks_is_the_one_reason(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")

    with pytest.raises(PromotionRefusedError) as refused:
        registry.promote(model.reference, "canary")
    assert refused.value.reasons == (
        "the policy has no stage 'canary'; it has production, staging",
    )


def test_a_tree_head_of_another_key_is_refused(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    (registry.keys.root / "log.key").write_text(SigningKey.generate().seed.hex())

    with pytest.raises(LedgerError, match="no valid signature"):
        registry.resolve("digits@production")


def test_an_edited_statement_does_not_count(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    registry.request(model.reference, "production")
    registry.create_key("alice")
    registry.approve(model.reference, "production", "alice")
    nonsense = base64.b64encode(b"\0" * 64).decode()
    edit(registry, f"update approval set signature = '{nonsense}'")

    with pytest.raises(PromotionRefusedError, match="0 of 1 approvals"):
        registry.promote(model.reference, "production")


def test_rollback_goes_back_and_forward(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.promoted(registry, "run-2", seed=2)

    assert registry.rollback(PROJECT, "production").model == first
    assert registry.resolve("digits@production").model == first
    with pytest.raises(PromotionRefusedError, match="name one"):
        registry.rollback(PROJECT, "production")
    assert registry.rollback(PROJECT, "production", to=second.reference).model == second
    assert [move.action for move in registry.history(PROJECT, "production")] == [
        "promote",
        "promote",
        "rollback",
        "rollback",
    ]


def test_rolling_back_twice_goes_back_twice(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.promoted(registry, "run-2", seed=2)
    building.promoted(registry, "run-3", seed=3)

    assert registry.rollback(PROJECT, "production").model == second
    assert registry.rollback(PROJECT, "production").model == first


def test_rollback_goes_to_proven_models_only(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    never = building.candidate(registry, "run-2", seed=2)

    with pytest.raises(PromotionRefusedError, match="never promoted to this stage"):
        registry.rollback(PROJECT, "production", to=never.reference)


def test_history_answers_what_was_live_at_a_time(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    between = registry.history(PROJECT, "production")[-1].time
    building.promoted(registry, "run-2", seed=2)

    assert registry.history(PROJECT, "production", at=between)[-1].model == first


def test_promoting_what_is_in_place_changes_nothing(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    leaves = registry.events(limit=10_000)

    assert not registry.promote(model.reference, "production").changed
    assert [event.seq for event in registry.events(limit=10_000)] == [event.seq for event in leaves]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.deep)])
def test_of_many_promoters_one_wins_and_nothing_is_lost(
    tmp_path: Path, databases: Databases, count: int
) -> None:
    home = tmp_path / "home"
    url = databases.url(home)
    with open_registry(home, catalog_url=url) as registry:
        models = [building.candidate(registry, f"run-{n}", seed=n).id for n in range(2)]
    # Processes of their own: nothing is shared but the database, the store and the keys.
    apart = multiprocessing.get_context("fork")
    together, answers = apart.Barrier(count), apart.Queue()
    promoters = [
        apart.Process(
            target=_promote, args=(home, url, models[number % 2], number, together, answers)
        )
        for number in range(count)
    ]
    for promoter in promoters:
        promoter.start()
    said = dict(answers.get(timeout=300) for _ in promoters)
    for promoter in promoters:
        promoter.join(60)

    with open_registry(home, catalog_url=url) as registry:
        (move,) = registry.history(PROJECT, "staging")
        noted = [leaf for leaf in registry.ledger(limit=10_000) if leaf.action == "annotate"]
        assert [promoter.exitcode for promoter in promoters] == [0] * count
        assert sorted(said) == list(range(count))
        assert list(said.values()).count("moved") == 1
        assert {answer for answer in said.values() if answer != "moved"} == {"too late"}
        assert move.model.id == models[next(n for n in said if said[n] == "moved") % 2]
        assert registry.resolve("digits@staging").model == move.model
        # What each wrote beside the race is there, once.
        texts = [leaf.body["text"] for leaf in noted if leaf.body]
        assert sorted(texts) == sorted(map(str, range(count)))
        assert registry.verify_ledger().problems == ()


def _promote(
    home: Path, url: str, model: str, number: int, together: "Barrier", answers: "Queue[Any]"
) -> None:
    """Promote a model when all others are about to, and say how it went."""
    with open_registry(home, catalog_url=url) as mine:
        promotion = mine.promotion(mine.get(model), "staging")
        assert next(promotion) == "decided"
        together.wait(240)
        mine.annotate(model, str(number))
        try:
            steps.run(promotion)
            answer = "moved"
        except PromotionRefusedError as error:
            answer = "too late" if "meanwhile" in str(error) else str(error)
    answers.put((number, answer))


def test_a_stage_that_serves_nothing_says_so(registry: Registry) -> None:
    building.candidate(registry, "run-1")
    with pytest.raises(UnknownArtifactError, match="serves nothing yet"):
        registry.resolve("digits@production")


def test_a_policy_object_that_was_changed_is_found(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    name = f"objects/{building.POLICY.digest}"
    registry.store.backend.put(name, digest.canonical({"promotion": {"staging": "automatic"}}))

    assert any("damaged" in problem for problem in registry.verify_ledger().problems)


def edit(registry: Registry, statement: str) -> None:
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql(statement))


def flip(registry: Registry) -> None:
    """Change one byte of every pack."""
    backend = registry.store.backend
    for key in list(backend.keys("packs/")):
        data = bytearray(backend.get(key))
        data[len(data) // 4] ^= 1
        backend.put(key, bytes(data))


def test_an_erased_verdict_is_not_signed_over(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    edit(registry, "update leaf set body = null where action = 'verdict'")

    with pytest.raises(LedgerError):
        registry.promote(model.reference, "staging")
    assert not registry.verify_ledger().ok


def test_a_verdict_that_comes_in_between_stops_the_promotion(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    promotion = registry.promotion(model, "staging")
    assert next(promotion) == "decided"
    building.judge(registry, model, passed=False)

    with pytest.raises(PromotionRefusedError, match="failed"):
        next(promotion)
    registry.sign_head()
    assert registry.verify_ledger().ok


def test_an_earlier_policy_may_be_put_in_force_again(registry: Registry) -> None:
    other = Policy.of({**building.POLICY.document(), "retention": {"keep": {"last": 9}}})
    for policy in (building.POLICY, other, building.POLICY):
        registry.set_policy(PROJECT, policy)
    registry.sign_head()

    assert registry.policy(PROJECT).digest == building.POLICY.digest
    assert registry.verify_ledger().ok


def test_without_a_way_back_there_is_no_way_forward(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.candidate(registry, "run-2", seed=2)
    building.approve(registry, second)
    publication = registry.publication_of(first.id, first.session)
    place = registry.locate(publication.keys())[publication.keys()[0]]
    key = f"packs/{place.pack[:2]}/{place.pack}"
    data = bytearray(registry.store.backend.get(key))
    data[place.offset] ^= 1
    registry.store.backend.put(key, bytes(data))

    with pytest.raises(PromotionRefusedError, match="no way back"):
        registry.promote(second.reference, "production")
