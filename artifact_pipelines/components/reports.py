"""What an artifact, a verdict, a move or a plan looks like in the Dagster UI."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from artifact_pipelines.components import drawing
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.verdict import Finding, Verdict
from artifact_pipelines.registry.applying import Applied
from artifact_pipelines.registry.evaluating import Attempt, Evaluation
from artifact_pipelines.registry.planning import Plan
from artifact_pipelines.registry.promoting import Promotion
from artifact_pipelines.registry.reading import Artifact, RunView
from artifact_pipelines.registry.surveying import PlanItem

Metadata = dict[str, Any]

LEAF = "ledger_leaf"
"""The metadata key of the leaf that a report is about."""

_WIDTH, _HEIGHT, _MARGIN = 480, 160, 28
_SHORT = 12
_MEGABYTE = 1e6
_CURVES = 6  # more pictures than that are not looked at
_ROWS = 200  # of a table; the rest is one command away
_PLACES = 5  # of a figure; more is noise on a page
_METRICS = 4  # of the newest checkpoint, beside its table


def of_artifact(artifact: Artifact) -> Metadata:
    """Return what every artifact shows."""
    return {
        "reference": artifact.reference,
        "content_digest": artifact.content[:_SHORT],
        "artifact_id": artifact.id[:_SHORT],
        "megabytes": _megabytes(artifact.size),
    }


def of_dataset(artifact: Artifact) -> Metadata:
    """Return what a dataset version shows."""
    found = of_artifact(artifact)
    facts = artifact.record.facts
    if "rows" in facts:
        found["dagster/row_count"] = int(facts["rows"])
    if facts.get("columns"):
        columns = [dg.TableColumn(name, str(kind)) for name, kind in facts["columns"].items()]
        found["dagster/column_schema"] = dg.TableSchema(columns)
    return found


def of_run(view: RunView, inputs: Mapping[str, str]) -> Metadata:
    """Return what a training run shows.

    Args:
        view: The run.
        inputs: The references of its inputs, by id.
    """
    record = view.artifact.record
    found = of_artifact(view.artifact)
    del found["megabytes"]
    found |= {
        "state": view.state,
        "checkpoints": len(view.checkpoints),
        **_newest_figures(view.checkpoints),
        "params": dg.MetadataValue.json(dict(record.params)),
        "inputs": dg.MetadataValue.json(
            {item.role: inputs.get(item.id, item.id[:_SHORT]) for item in record.inputs}
        ),
    }
    if record.code:
        found["code"] = dg.MetadataValue.json(dict(record.code))
    return found


def of_checkpoints(view: RunView) -> Metadata:
    """Return what a run's checkpoints show: the newest figures, a table and curves."""
    shown = view.checkpoints
    found: Metadata = {
        "checkpoints": len(shown),
        "megabytes": _megabytes(sum(item.size for item in shown)),
    }
    if not shown:
        return found
    names = sorted({name for item in shown for name in item.metrics})
    found |= _newest_figures(shown)
    columns = [
        dg.TableColumn("step", "int"),
        *(dg.TableColumn(name, "float") for name in names),
        dg.TableColumn("megabytes", "float"),
        dg.TableColumn("content", "string"),
    ]
    records = [
        dg.TableRecord(
            {
                "step": item.step or 0,
                **{name: _cell(item.metrics.get(name)) for name in names},
                "megabytes": _megabytes(item.size),
                "content": item.content[:_SHORT],
            }
        )
        for item in shown[-_ROWS:]
    ]
    found["table"] = dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
    drawn = _curves(shown, names)
    if drawn:
        found["curve"] = dg.MetadataValue.md(drawn)
    return found


def _newest_figures(checkpoints: Sequence[Artifact]) -> Metadata:
    """Return the step and the metrics of the newest checkpoint."""
    if not checkpoints:
        return {}
    last = checkpoints[-1]
    return {"last_step": last.step or 0, **_finite(last.metrics)}


def shown_attempt(evaluation: Evaluation) -> Attempt:
    """Return the checkpoint that stands for an evaluation: the one that passed, else the best."""
    passed = [attempt for attempt in evaluation.attempts if attempt.passed]
    return passed[0] if passed else evaluation.attempts[0]


def of_evaluation(evaluation: Evaluation) -> Metadata:
    """Return what a candidate shows."""
    shown = shown_attempt(evaluation)
    found = {"verdict": _verdict_line(shown), **of_artifact(shown.model)}
    found |= {
        "checkpoint": shown.checkpoint.reference,
        "training": link_to_run(shown.checkpoint),
        "passed": shown.passed,
        "gates_passed": sum(verdict.passed for verdict in shown.verdicts),
        "gates_failed": sum(not verdict.passed for verdict in shown.verdicts),
        "gates": dg.MetadataValue.md(
            _verdict_table([(tried.model, tried.verdicts) for tried in evaluation.attempts])
        ),
    }
    return found | {f"held_out_{name}": value for name, value in _finite(shown.metrics).items()}


def _verdict_line(attempt: Attempt) -> str:
    """Return in one line whether a model passed, or what it failed at and why."""
    failed = [verdict for verdict in attempt.verdicts if not verdict.passed]
    if not failed:
        return "passed every gate"
    said = [f"{verdict.gate}: {'; '.join(verdict.reasons)}" for verdict in failed]
    return f"failed at {' · '.join(said)}"


def link_to_run(checkpoint: Artifact) -> dg.UrlMetadataValue:
    """Return a link to the page of the run that saved a checkpoint."""
    place = f"/assets/{quote(checkpoint.project)}/checkpoints"
    return dg.MetadataValue.url(f"{place}?view=partitions&partition={quote(checkpoint.name)}")


def of_verdict(
    verdict: Verdict, model: Artifact, evidence: Mapping[str, Any] | None = None
) -> Metadata:
    """Return what one gate's check shows, with its evidence where that was read."""
    found: Metadata = {"reason": "; ".join(verdict.reasons), "model": model.reference}
    found |= _plain(verdict.values)
    if verdict.evidence is not None:
        found["evidence"] = verdict.evidence[:_SHORT]
    if evidence is not None:
        found["details"] = dg.MetadataValue.json(dict(evidence))
        if drawn := drawing.pictures_of(evidence):
            found["picture"] = dg.MetadataValue.md(drawn)
    return found


def of_finding(finding: Finding) -> Metadata:
    """Return what a dataset's check shows."""
    found: Metadata = {
        "reasons": dg.MetadataValue.md("\n".join(f"- {_escaped(one)}" for one in finding.reasons))
    }
    found |= _plain(finding.values)
    if finding.evidence is not None:
        evidence = digest.parse(digest.canonical(finding.evidence))
        found["evidence"] = dg.MetadataValue.json(evidence)
    return found


def of_promotion(moved: Promotion, verdicts: Sequence[Verdict], checkpoint: Artifact) -> Metadata:
    """Return what a pointer move shows."""
    return of_pointer(moved.model, moved.stage, moved.seq, checkpoint) | {
        "previous": moved.previous.reference if moved.previous else "nothing",
        "moved_now": moved.changed,
        "difference": dg.MetadataValue.md(_difference(moved.previous, moved.model)),
        "gates": dg.MetadataValue.md(_verdict_table([(moved.model, verdicts)])),
    }


def of_pointer(model: Artifact, stage: str, seq: int, checkpoint: Artifact) -> Metadata:
    """Return what a stage shows, however it came to point there."""
    return of_artifact(model) | {
        "stage": stage,
        LEAF: seq,
        "checkpoint": checkpoint.reference,
        "training": link_to_run(checkpoint),
        "proof": f"artifact-pipelines model show {stage}",
        **_finite(model.metrics),
    }


def of_plan(plan: Plan) -> Metadata:
    """Return what a retention plan shows."""
    forget, keep = plan.chosen(Action.FORGET), plan.chosen(Action.KEEP)
    found: Metadata = {
        "plan": plan.id[:_SHORT],
        "state": plan.state,
        "kept": len(keep),
        "to_forget": len(forget),
        "to_slim": len(plan.chosen(Action.SLIM)),
        "to_archive": len(plan.chosen(Action.ARCHIVE)),
        "megabytes_to_forget": _megabytes(sum(item.size for item in forget)),
        "megabytes_kept": _megabytes(sum(item.size for item in keep)),
        "expires": plan.expires,
        "next": f"artifact-pipelines retention show {plan.id[:_SHORT]} --html plan.html",
    }
    if forget or keep:
        columns = [
            dg.TableColumn("action", "string"),
            dg.TableColumn("artifact", "string"),
            dg.TableColumn("megabytes", "float"),
            dg.TableColumn("why", "string"),
            dg.TableColumn("referrers", "string"),
        ]
        moved = [*plan.chosen(Action.SLIM), *plan.chosen(Action.ARCHIVE)]
        records = [_plan_record(item) for item in (*forget, *moved, *keep)[:_ROWS]]
        found["items"] = dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
    return found


def of_cleanup(applied: Sequence[Applied], refused: Sequence[str], waiting: int) -> Metadata:
    """Return what carrying out plans shows."""
    skipped = [
        f"{reference}: {why}" for found in applied for reference, why in found.skipped.items()
    ]
    lines = [_escaped(one) for one in (*refused, *skipped)]
    return {
        "plans": len(applied),
        "forgotten": sum(len(found.forgotten) for found in applied),
        "slimmed": sum(len(found.slimmed) for found in applied),
        "archived": sum(len(found.archived) for found in applied),
        "skipped": len(skipped),
        "refused": len(refused),
        "waiting_for_approval": waiting,
        "kept_after_all": dg.MetadataValue.md("\n".join(f"- {one}" for one in lines) or "nothing"),
    }


def set_version(checkpoints: Sequence[Artifact]) -> str:
    """Return the version of a set of checkpoints: a digest over steps and contents."""
    lines = sorted((item.step or 0, item.content) for item in checkpoints)
    text = "".join(f"{step} {content}\n" for step, content in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def _megabytes(size: int) -> float:
    return round(size / _MEGABYTE, 3)


def _cell(value: float | None) -> float | str | None:
    """Return a figure as a table may hold it; JSON has no NaN."""
    if value is None:
        return None
    return round(value, _PLACES) if math.isfinite(value) else str(value)


def _plain(values: Mapping[str, Any]) -> Metadata:
    """Return the figures that the UI can show or plot."""
    return {
        name: _cell(value) if isinstance(value, float) else value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str)
    }


def _finite(metrics: Mapping[str, float]) -> Metadata:
    """Return the first few metrics that can be plotted."""
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return {name: round(finite[name], _PLACES) for name in sorted(finite)[:_METRICS]}


def _escaped(text: str) -> str:
    """Return a text that neither ends a table's cell nor its line."""
    return " ".join(text.split()).replace("|", "\\|")


def _verdict_table(judged: Sequence[tuple[Artifact, Sequence[Verdict]]]) -> str:
    rows = [
        f"| {model.reference} | {verdict.gate} | "
        f"{'passed' if verdict.passed else '**failed**'} | {_escaped('; '.join(verdict.reasons))} |"
        for model, verdicts in judged
        for verdict in verdicts
    ]
    return "\n".join(["| model | gate | verdict | why |", "|---|---|---|---|", *rows])


def _difference(before: Artifact | None, after: Artifact) -> str:
    """Return how the training metrics of two models differ, as a table."""
    old = {} if before is None else before.metrics
    names = sorted(old.keys() | after.metrics.keys())
    if not names:
        return "no metrics"
    head = f"| metric | {before.reference if before else 'nothing'} | {after.reference} |"
    rows = [
        f"| {name} | {_figure(old.get(name))} | {_figure(after.metrics.get(name))} |"
        for name in names
    ]
    return "\n".join([head, "|---|---|---|", *rows])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _plan_record(item: PlanItem) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "action": item.action,
            "artifact": item.reference,
            "megabytes": _megabytes(item.size),
            "why": "; ".join(item.reasons),
            "referrers": ", ".join(item.referrers),
        }
    )


def _curves(checkpoints: Sequence[Artifact], names: Sequence[str]) -> str:
    pictures = []
    for name in names[:_CURVES]:
        points = [
            (item.step or 0, item.metrics[name])
            for item in checkpoints
            if math.isfinite(item.metrics.get(name, math.nan))
        ]
        if len(points) > 1:
            pictures.append(f"**{name}**\n\n![{name} by step]({_picture(points)})")
    return "\n\n".join(pictures)


def _picture(points: Sequence[tuple[int, float]]) -> str:
    """Return a line through points as the address of an inline picture."""
    first, last = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN

    def place(step: int, value: float) -> str:
        x = _MARGIN + (step - first) / ((last - first) or 1) * width
        y = _HEIGHT - _MARGIN - (value - low) / ((high - low) or 1) * height
        return f"{x:.1f},{y:.1f}"

    places = [place(step, value) for step, value in points]
    dots = "".join(
        '<circle cx="{}" cy="{}" r="3" fill="#4f43dd"/>'.format(*one.split(",")) for one in places
    )
    line = " ".join(places)
    text = 'font-family="sans-serif" font-size="11" fill="#555"'
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'<polyline points="{line}" fill="none" stroke="#4f43dd" stroke-width="2"/>'
        f"{dots}"
        f'<text x="2" y="{_MARGIN - 8}" {text}>{high:.4g}</text>'
        f'<text x="2" y="{_HEIGHT - _MARGIN + 12}" {text}>{low:.4g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 2}" {text}>step {first}</text>'
        f'<text x="{_WIDTH - 70}" y="{_HEIGHT - 2}" {text}>step {last}</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()
