"""The guards that keep data safe, each as the line that it is, and the test of its effect.

A guard is taken out at run time by replacing its line. Where the line is no longer there the
removal fails, so that this list cannot fall behind the code.
"""

import importlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

PACKAGE = "artifact_pipelines"
TESTS = "artifact_pipelines_tests"


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        what: What it prevents.
        place: The module and the function that it is in.
        line: The text that is the guard.
        without: The text in its place once it is taken out.
        test: The test that fails without it.
    """

    what: str
    place: str
    line: str
    without: str
    test: str

    def remove(self) -> None:
        """Take the guard out of this process."""
        owner, function = self._owner()
        made: dict[str, Any] = {}
        changed = self.source().replace(self.line, self.without)
        module = importlib.import_module(f"{PACKAGE}.{self.place.partition(':')[0]}")
        exec(compile(changed, f"<{self.place}>", "exec"), module.__dict__, made)  # noqa: S102
        setattr(owner, function, made[function])

    def source(self) -> str:
        """Return the source of the function that the guard is in.

        Raises:
            LookupError: The guard's line is not in it, or more than once.
        """
        owner, function = self._owner()
        source = textwrap.dedent(inspect.getsource(getattr(owner, function)))
        if source.count(self.line) != 1:
            raise LookupError(f"{self.place} has {source.count(self.line)} times: {self.line}")
        return source

    def _owner(self) -> tuple[Any, str]:
        name, _, path = self.place.partition(":")
        owner: Any = importlib.import_module(f"{PACKAGE}.{name}")
        *classes, function = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        return owner, function


GUARDS = {
    "claim": Guard(
        "prune deletes a pack that a writer relies on",
        "catalog.packs:_unneeded",
        "return [~needed.exists(), ~claimed.exists()]",
        "return [~needed.exists()]",
        "registry/test_retiring.py::test_a_pack_that_a_writer_claimed_is_not_pruned[sqlite]",
    ),
    "need": Guard(
        "prune deletes a pack that a live artifact needs",
        "catalog.packs:_unneeded",
        "return [~needed.exists(), ~claimed.exists()]",
        "return [~claimed.exists()]",
        "registry/test_pruning.py::test_prune_takes_no_pack_that_is_needed[sqlite]",
    ),
    "fence": Guard(
        "a writer publishes whose session has expired",
        "catalog.packs:lock_session",
        'if not tx.lock_rows(tables.session, "id", [session]):',
        "if False:",
        "registry/test_pruning.py::test_a_paused_writer_that_wrote_nothing_new_is_fenced[sqlite]",
    ),
    "re-check": Guard(
        "a pack goes that came to be needed during its grace",
        "catalog.packs:doom",
        'if not rows or rows[0].state != "condemned" or not _is_unneeded(tx, pack):',
        'if not rows or rows[0].state != "condemned":',
        "registry/test_pruning.py::test_a_pack_that_is_needed_when_its_grace_is_over_stays[sqlite]",
    ),
    "grace": Guard(
        "a pack goes before its grace is over",
        "catalog.packs:doom",
        "if rows[0].condemned_at + grace > tx.now():",
        "if False:",
        "catalog/test_catalog.py::test_an_unused_pack_is_condemned_then_deleted[sqlite]",
    ),
    "unmap": Guard(
        "a chunk stays mapped to a pack that is being deleted",
        "catalog.packs:doom",
        "held = tx.conn.execute(sa.delete(chunk).where(chunk.c.pack == pack)).rowcount",
        "held = 0",
        "registry/test_pruning.py::test_the_chunks_of_a_doomed_pack_are_mapped_nowhere[sqlite]",
    ),
    "absent": Guard(
        "a chunk in a pack that is being deleted is relied on",
        "catalog.packs:claim",
        'if row.state in {"live", "condemned"}',
        'if row.state in {"live", "condemned", "deleting"}',
        "registry/test_pruning.py::test_a_pack_that_is_being_deleted_is_not_claimed[sqlite]",
    ),
    "last look": Guard(
        "an artifact is published whose chunks are gone",
        "catalog.packs:seal",
        "if dead or len(found) < len(needed) or len(_chunk_rows(tx.conn, based)) < len(based):",
        "if False:",
        "catalog/test_catalog.py::test_a_missing_chunk_stops_a_publish[sqlite]",
    ),
    "version check": Guard(
        "a move repoints a pack that changed since it was read",
        "catalog.moves:_check_packs",
        'if row is None or row.state != "live" or row.version != version:',
        "if False:",
        "registry/test_moving.py::test_a_pack_that_was_touched_since_is_not_moved_from[sqlite]",
    ),
    "unclaimed": Guard(
        "a move takes a pack away from under a writer",
        "catalog.moves:_check_packs",
        "if tx.conn.execute(sa.select(claim.c.pack).where(claim.c.pack.in_(part))).first():",
        "if False:",
        "registry/test_moving.py::test_a_pack_that_a_writer_claims_is_not_moved_from[sqlite]",
    ),
    "self-contained base": Guard(
        "a difference is taken from a difference",
        "catalog.moves:_check_chunks",
        "if place is None or place.base is not None:",
        "if place is None:",
        "registry/test_moving.py::test_a_base_that_differs_itself_is_refused[sqlite]",
    ),
    "no dependents": Guard(
        "a chunk that others differ from becomes a difference",
        "catalog.moves:_check_chunks",
        "if set(leaning) - move.dropped:",
        "if False:",
        "registry/test_moving.py::"
        "test_a_chunk_that_others_differ_from_does_not_become_a_difference[sqlite]",
    ),
    "claimed base": Guard(
        "a session relies on a difference whose base is being deleted",
        "catalog.packs:claim",
        "and (row.base is None or (row.base in bases and bases[row.base].pack in safe))",
        "",
        "registry/test_moving.py::test_what_differs_from_a_deleted_chunk_counts_as_absent[sqlite]",
    ),
    "doomed base": Guard(
        "a difference stays mapped whose base is deleted",
        "catalog.packs:doom",
        "for part in batches(leaning):",
        "for part in ():",
        "registry/test_moving.py::test_a_doomed_base_takes_along_what_differs_from_it[sqlite]",
    ),
    "attached base": Guard(
        "an artifact is not attached to the pack of a base that it needs",
        "catalog.moves:_attach",
        "wanted.add(home[place.base])",
        "pass",
        "registry/test_moving.py::test_a_base_in_another_pack_is_attached_and_claimed[sqlite]",
    ),
    "moved and forgotten": Guard(
        "an artifact is archived that was forgotten meanwhile",
        "registry.moving:_commit",
        'if any(row.state == "forgotten" for row in rows):',
        "if False:",
        "registry/test_moving.py::test_a_checkpoint_forgotten_while_it_moves_is_not_archived[sqlite]",
    ),
    "declared length": Guard(
        "a chunk claims to be longer than any chunk",
        "store.codec:decode",
        "if not 0 <= length <= MAX_CHUNK:",
        "if False:",
        "store/test_codec.py::test_a_declared_length_is_bounded",
    ),
    "read back": Guard(
        "a chunk is stored in a form from which it does not come back",
        "store.codec:_read_back",
        "if not np.array_equal(np.frombuffer(back, np.uint8), view):",
        "if False:",
        "store/test_codec.py::test_what_does_not_come_back_is_not_stored[encode]",
    ),
    "bomb": Guard(
        "a small frame is unpacked into much",
        "store.codec:_decompressed",
        "if zstandard.frame_content_size(frame) != length:",
        "if False:",
        "store/test_codec.py::test_a_bomb_is_refused_before_it_is_unpacked",
    ),
    "class at once": Guard(
        "the cold tier goes where nothing can be read for hours",
        "store.s3:_cold_class",
        "if name not in _COLD_CLASSES:",
        "if False:",
        "store/test_s3.py::test_a_class_that_cannot_be_read_at_once_is_refused[GLACIER]",
    ),
    "plain bytes": Guard(
        "plain bytes are published into a project that came to be encrypted",
        "registry.publishing:_commit",
        "if active_scope(tx.conn, record.project) != session.scope:",
        "if False:",
        "registry/test_scopes.py::test_a_publish_that_began_before_is_refused[sqlite]",
    ),
    "lost is not pruned": Guard(
        "the copy loses what was lost here",
        "registry.scrubbing:Scrubbing.replicate",
        "if pack in pruned and mine.size(key) is None",
        "if mine.size(key) is None",
        "registry/test_scrubbing.py::test_the_copy_is_brought_up_to_date_and_keeps_what_was_lost_here[sqlite]",
    ),
    "quarantine": Guard(
        "half a file is handed over that a scrub found damaged",
        "registry.reading:Reading._check_whole",
        "if key in hurt:",
        "if False:",
        "registry/test_scrubbing.py::test_a_quarantined_file_is_refused_in_one_sentence[sqlite]",
    ),
    "chunk map": Guard(
        "a tensor is read by a chunk map that was changed",
        "registry.tensors:Tensors._check_object",
        "if expected is not None and actual != expected:",
        "if False:",
        "registry/test_tensors.py::test_a_changed_chunk_map_is_found_without_the_whole_file[sqlite]",
    ),
    "row lock": Guard(
        "two changes of the catalog read the same state and both write",
        "catalog.catalog:_engine",
        '"BEGIN IMMEDIATE" if writes else "BEGIN"',
        '"BEGIN"',
        "catalog/test_locking.py::test_two_changes_never_decide_on_the_same_state",
    ),
    "directory fsync": Guard(
        "an object is acknowledged whose name a power loss takes back",
        "store.files:FileBackend.sync_folder",
        "self.sync_file(handle, str(folder))",
        "pass",
        "store/test_durability.py::test_an_object_is_named_between_two_syncs",
    ),
    "hold": Guard(
        "what is on hold is forgotten",
        "registry.holding:_on_hold",
        "for row in _placed(conn):",
        "for row in ():",
        "registry/test_holding.py::test_a_hold_says_who_placed_it_and_why[sqlite]",
    ),
    "hold of inputs": Guard(
        "what a held artifact was made from is forgotten",
        "registry.holding:_on_hold",
        "if row.inputs:",
        "if False:",
        "registry/test_holding.py::test_a_hold_with_inputs_holds_all_that_it_was_made_from[sqlite]",
    ),
    "leaves since": Guard(
        "what came to be held since the decision is forgotten",
        "registry.applying:_unsettled",
        "if not UNSETTLING.isdisjoint(since):",
        "if False:",
        "registry/test_planning.py::"
        "test_what_happens_between_decision_and_leaf_is_decided_again[sqlite]",
    ),
    "reader's lease": Guard(
        "what is being read is forgotten",
        "registry.holding:_read",
        'yield row.artifact, "somebody is reading it"',
        "yield from ()",
        "registry/test_pruning.py::test_a_reader_is_a_reason_to_stay[sqlite]",
    ),
    "breaker": Guard(
        "a plan that forgets nearly everything is applied",
        "registry.planning:breaker",
        "if plan.items and count / len(plan.items) > limits.max_share:",
        "if False:",
        "registry/test_planning.py::test_the_breaker_is_asked_again_when_a_plan_is_applied[sqlite]",
    ),
    "second engine": Guard(
        "prune believes a catalog that was damaged",
        "registry.pruning:_differing_kinds",
        "if here != there:",
        "if False:",
        "registry/test_retiring.py::test_nothing_is_deleted_when_the_two_engines_disagree[sqlite]",
    ),
    "mapped chunks": Guard(
        "prune believes a catalog that lost its attachments",
        "registry.pruning:Pruning._unmapped",
        "if wanted:",
        "if False:",
        "registry/test_retiring.py::test_a_lost_row_of_artifact_pack_deletes_nothing[sqlite]",
    ),
    "canary": Guard(
        "prune goes on although both engines call the dead alive or the alive dead",
        "registry.pruning:Pruning._dead_canary",
        "if canary.id not in mine or canary.id not in other.artifacts:",
        "if False:",
        "registry/test_pruning.py::test_a_canary_that_both_engines_call_dead_stops_prune[sqlite]",
    ),
    "ahead": Guard(
        "prune deletes by a catalog that is older than its store",
        "registry.pruning:Pruning._pruning",
        "self._check_ahead()",
        "pass",
        "registry/test_pruning.py::test_prune_does_not_begin_while_the_store_is_ahead[sqlite]",
    ),
    "archived once": Guard(
        "two workers of one shard archive it twice",
        "registry.moving:_commit",
        "if artifact.id in there:",
        "if False:",
        "registry/test_shards.py::test_two_workers_of_one_shard_archive_it_once[sqlite]",
    ),
    "drilled once": Guard(
        "two workers of one shard write a rehearsal down twice",
        "registry.drilling:_write_down",
        "if done is not None:",
        "if False:",
        "registry/test_shards.py::test_two_workers_of_one_drill_write_it_down_once[sqlite]",
    ),
    "set apart once": Guard(
        "two workers of one shard write damage down twice",
        "registry.scrubbing:_quarantine",
        "if said[0] not in known",
        "",
        "registry/test_shards.py::"
        "test_a_shard_that_is_scrubbed_twice_writes_damage_down_once[sqlite]",
    ),
    "moved since": Guard(
        "a scrub calls a pack damaged that compaction and prune took away",
        "registry.scrubbing:Scrubbing.scrub_shard",
        "if not places or {at.key_id for at in places.values()} & destroyed:",
        "if {at.key_id for at in places.values()} & destroyed:",
        "registry/test_shards.py::test_a_pack_that_went_since_it_was_drawn_is_no_damage[sqlite]",
    ),
    "evaluation data apart": Guard(
        "a model passes by what it measures on rows that it was trained on",
        "gates.judging:_judged",
        "if case.seen and isinstance(gate, _MEASURING):",
        "if False:",
        "registry/test_evaluating.py::"
        "test_a_model_that_was_trained_on_the_evaluation_data_fails_what_measures",
    ),
    "pointer by the ledger": Guard(
        "a move rests on a stage's row that somebody edited",
        "registry.pointers:pointer",
        "if kept != ((None, 0) if moved is None else (moved.artifact, moved.seq)):",
        "if False:",
        "registry/test_promoting.py::test_nothing_rests_on_a_pointer_edited_in_sql[sqlite]",
    ),
    "history by the ledger": Guard(
        "what was live is told by rows that somebody edited",
        "registry.pointers:moves",
        "if wrong:",
        "if False:",
        "registry/test_promoting.py::test_a_history_edited_in_sql_is_named",
    ),
}
