"""What an artifact looks like in the Dagster UI."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import dagster as dg

from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.registry.promoting import Promotion
from artifact_pipelines.registry.reading import Artifact, RunView
from artifact_pipelines.registry.retiring import Plan

Metadata = dict[str, Any]

_WIDTH, _HEIGHT, _MARGIN = 480, 160, 28
_SHORT = 12


def of_artifact(artifact: Artifact) -> Metadata:
    """Return what every artifact shows."""
    return {
        "reference": artifact.reference,
        "content_digest": artifact.content[:_SHORT],
        "artifact_id": artifact.id[:_SHORT],
        "megabytes": round(artifact.size / 1e6, 3),
    }


def of_run(view: RunView) -> Metadata:
    """Return what a training run shows."""
    found = of_artifact(view.artifact)
    found |= {
        "state": view.state,
        "checkpoints": len(view.checkpoints),
        "params": dg.MetadataValue.json(dict(view.artifact.record.params)),
    }
    resumed = [item.id for item in view.artifact.record.inputs if item.role == "resume"]
    if resumed:
        found["resumed_from"] = resumed[0][:_SHORT]
    return found


def of_checkpoints(view: RunView) -> Metadata:
    """Return what a run's checkpoints show: a table, a curve and the newest figures."""
    names = sorted({name for item in view.checkpoints for name in item.metrics})
    records = [
        dg.TableRecord(
            {
                "step": item.step or 0,
                **{name: round(item.metrics.get(name, float("nan")), 4) for name in names},
                "megabytes": round(item.size / 1e6, 3),
                "content": item.content[:_SHORT],
            }
        )
        for item in view.checkpoints
    ]
    columns = [
        dg.TableColumn("step", "int"),
        *(dg.TableColumn(name, "float") for name in names),
        dg.TableColumn("megabytes", "float"),
        dg.TableColumn("content", "string"),
    ]
    found: Metadata = {"checkpoints": len(view.checkpoints)}
    if view.checkpoints:
        last = view.checkpoints[-1]
        found |= {name: float(last.metrics[name]) for name in names if name in last.metrics}
        found["last_step"] = last.step or 0
        found["table"] = dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
        found["curve"] = dg.MetadataValue.md(_curves(view.checkpoints, names))
    return found


def of_verdicts(verdicts: Sequence[Verdict]) -> Metadata:
    """Return what gates said, a line each."""
    lines = [
        f"| {'passed' if verdict.passed else '**failed**'} | {verdict.gate} | "
        f"{'; '.join(verdict.reasons)} |"
        for verdict in verdicts
    ]
    table = "\n".join(["| verdict | gate | reason |", "|---|---|---|", *lines])
    return {
        "gates_passed": sum(verdict.passed for verdict in verdicts),
        "gates_failed": sum(not verdict.passed for verdict in verdicts),
        "gates": dg.MetadataValue.md(table),
    }


def of_promotion(moved: Promotion) -> Metadata:
    """Return what a pointer move shows."""
    return {
        **of_artifact(moved.model),
        "stage": moved.stage,
        "previous": moved.previous.reference if moved.previous else "nothing",
        "changed": moved.changed,
        "ledger_leaf": moved.seq,
        "seconds": round(moved.seconds, 3),
    }


def of_plan(plan: Plan) -> Metadata:
    """Return what a retention plan shows."""
    forget, keep = plan.chosen("forget"), plan.chosen("keep")
    records = [
        dg.TableRecord(
            {
                "action": item.action,
                "artifact": item.reference,
                "megabytes": round(item.size / 1e6, 3),
                "why": "; ".join(item.reasons),
                "referrers": item.referrers,
            }
        )
        for item in (*forget, *keep)
    ]
    found: Metadata = {
        "plan": plan.id[:_SHORT],
        "state": plan.state,
        "kept": len(keep),
        "to_forget": len(forget),
        "megabytes_to_forget": round(sum(item.size for item in forget) / 1e6, 3),
    }
    if records:
        columns = [
            dg.TableColumn("action", "string"),
            dg.TableColumn("artifact", "string"),
            dg.TableColumn("megabytes", "float"),
            dg.TableColumn("why", "string"),
            dg.TableColumn("referrers", "int"),
        ]
        found["items"] = dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
    return found


def data_version(checkpoints: Sequence[Artifact]) -> dg.DataVersion:
    """Return the version of a set of checkpoints: a digest over steps and contents."""
    lines = sorted((item.step or 0, item.content) for item in checkpoints)
    whole = hashlib.sha256("".join(f"{step} {content}\n" for step, content in lines).encode())
    return dg.DataVersion(whole.hexdigest())


def _curves(checkpoints: Sequence[Artifact], names: Sequence[str]) -> str:
    return "\n\n".join(
        f"**{name}**\n\n![{name} by step]({_curve(points)})"
        for name in names
        if len(points := [(item.step or 0, item.metrics.get(name)) for item in checkpoints]) > 1
    )


def _curve(points: Sequence[tuple[int, float | None]]) -> str:
    """Return a line through points as the address of an inline picture."""
    finite = [(step, value) for step, value in points if value is not None and value == value]  # noqa: PLR0124  NaN
    low_x, high_x = finite[0][0], max(finite[-1][0], finite[0][0] + 1)
    low_y, high_y = min(value for _, value in finite), max(value for _, value in finite)
    span = (high_y - low_y) or 1.0

    def place(step: int, value: float) -> str:
        x = _MARGIN + (step - low_x) / (high_x - low_x) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (value - low_y) / span * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(step, value) for step, value in finite)
    text = 'font-family="sans-serif" font-size="11" fill="#555"'
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<polyline points="{line}" fill="none" stroke="#4f43dd" stroke-width="2"/>'
        f'<text x="2" y="{_MARGIN - 8}" {text}>{high_y:.4g}</text>'
        f'<text x="2" y="{_HEIGHT - _MARGIN + 16}" {text}>{low_y:.4g}</text>'
        f'<text x="{_WIDTH - 90}" y="{_HEIGHT - 6}" {text}>step {high_x}</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()
