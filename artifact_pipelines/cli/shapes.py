"""The JSON shapes of what the registry returns. `docs/command-line.md` documents them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from artifact_pipelines.domain.verdict import Verdict
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.auditing import Event
    from artifact_pipelines.registry.deciding import RegisteredKey
    from artifact_pipelines.registry.moving import Moved
    from artifact_pipelines.registry.planning import Plan
    from artifact_pipelines.registry.promoting import Move, Promotion
    from artifact_pipelines.registry.reading import (
        Artifact,
        LineageEdge,
        RunView,
        Verification,
    )
    from artifact_pipelines.registry.scrubbing import Damage, ScrubReport
    from artifact_pipelines.registry.sweeping import PlannedRun


Shape = dict[str, Any]


def artifact(found: "Artifact") -> Shape:
    """Return an artifact in one row."""
    return {
        "reference": found.reference,
        "artifact_id": found.id,
        "kind": str(found.kind),
        "project": found.project,
        "name": found.name,
        "step": found.step,
        "version": found.version,
        "content_digest": found.content,
        "size_bytes": found.size,
        "published": found.published,
        "state": found.state,
        "recalled": found.recalled,
        "tier": found.tier,
        "metrics": found.metrics,
    }


def details(registry: "Registry", found: "Artifact") -> Shape:
    """Return an artifact with its record and files."""
    return artifact(found) | {
        "leaf": found.seq,
        "attempt": found.record.attempt,
        "run_id": found.record.run,
        "params": dict(found.record.params),
        "code": dict(found.record.code),
        "facts": {name: value for name, value in found.record.facts.items() if name != "metrics"},
        "inputs": [
            {
                "role": item.role,
                "reference": registry.get(item.id).reference,
                "artifact_id": item.id,
            }
            for item in found.record.inputs
        ],
        "files": files(registry, found),
    }


def files(registry: "Registry", found: "Artifact") -> list[Shape]:
    """Return the files of an artifact, with what became of the bytes of each."""
    states = registry.file_states(found)
    return [
        {
            "path": entry.path,
            "size_bytes": entry.size,
            "sha256": entry.sha256,
            "media_type": entry.media_type,
            "state": states[entry.path],
        }
        for entry in registry.files(found.id)
    ]


def scrub(found: "ScrubReport") -> Shape:
    """Return what reading stored bytes again found."""

    def damages(those: "Sequence[Damage]") -> list[Shape]:
        return [
            {
                "pack": damage.pack,
                "chunk": damage.key,
                "what": damage.what,
                "artifacts": list(damage.artifacts),
            }
            for damage in those
        ]

    return {
        "ok": found.ok,
        "packs": found.packs,
        "chunks": found.chunks,
        "size_bytes": found.size,
        "seed": found.seed,
        "damaged": damages(found.damaged),
        "healed": damages(found.healed),
    }


def moved(found: "Moved") -> Shape:
    """Return what archiving or restoring did."""
    return {
        "moved": list(found.moved),
        "skipped": dict(found.skipped),
        "bytes_before": found.before,
        "bytes_after": found.after,
    }


def run(view: "RunView") -> Shape:
    """Return a training run in one row."""
    last = view.checkpoints[-1] if view.checkpoints else None
    return artifact(view.artifact) | {
        "run_state": view.state,
        "reason": view.reason,
        "checkpoints": len(view.checkpoints),
        "last_step": None if last is None else last.step,
        "metrics": {} if last is None else last.metrics,
        "params": dict(view.artifact.record.params),
    }


def planned(run: "PlannedRun") -> Shape:
    """Return a planned run in one row."""
    return {
        "reference": f"{run.project}/{run.name}",
        "project": run.project,
        "name": run.name,
        "plan": run.plan,
        "params": dict(run.params),
        "leaf": run.seq,
    }


def verification(found: "Verification") -> Shape:
    """Return whether an artifact's bytes are what its record says."""
    return {
        "reference": found.reference,
        "ok": found.ok,
        "files": found.files,
        "size_bytes": found.size,
        "damaged": list(found.damaged),
    }


def verdict(found: "Verdict") -> Shape:
    """Return what one gate said."""
    return {
        "gate": found.gate,
        "passed": found.passed,
        "reasons": list(found.reasons),
        "values": dict(found.values),
        "policy": found.policy,
        "baseline": found.baseline,
        "evaluation": found.evaluation,
    }


def move(found: "Move") -> Shape:
    """Return one move of a pointer."""
    return {
        "leaf": found.seq,
        "time": found.time,
        "action": found.action,
        "reference": found.model.reference,
        "artifact_id": found.model.id,
        "actor": found.actor,
        "policy": found.policy,
    }


def promotion(found: "Promotion") -> Shape:
    """Return a pointer that moved."""
    return {
        "stage": found.stage,
        "reference": found.model.reference,
        "artifact_id": found.model.id,
        "previous": None if found.previous is None else found.previous.reference,
        "leaf": found.seq,
        "changed": found.changed,
        "seconds": found.seconds,
    }


def key(found: "RegisteredKey") -> Shape:
    """Return a registered key."""
    return {
        "name": found.name,
        "key": found.id,
        "roles": list(found.roles),
        "public": found.public,
        "revoked": found.revoked,
    }


def edge(found: "LineageEdge") -> Shape:
    """Return one step of a lineage."""
    return {
        "depth": found.depth,
        "child": found.child.reference,
        "child_id": found.child.id,
        "parent": found.parent.reference,
        "parent_id": found.parent.id,
        "role": found.role,
        "kind": found.kind,
    }


def plan(found: "Plan") -> Shape:
    """Return a retention plan with its items."""
    return {
        "plan": found.id,
        "project": found.project,
        "policy": found.policy,
        "leaves": found.size,
        "root": found.root,
        "made": found.made,
        "expires": found.expires,
        "state": found.state,
        "approver": found.approver,
        "totals": found.totals(),
        "items": [
            {
                "reference": item.reference,
                "artifact_id": item.artifact,
                "kind": item.kind,
                "size_bytes": item.size,
                "action": item.action,
                "rule": item.rule,
                "reasons": list(item.reasons),
                "referrers": list(item.referrers),
            }
            for item in found.items
        ],
    }


def event(found: "Event") -> Shape:
    """Return one leaf of the ledger."""
    return {
        "leaf": found.seq,
        "time": found.time,
        "actor": found.actor,
        "action": found.action,
        "subject": found.subject,
        "project": found.project,
        "body": found.body,
    }
