"""LightGBM: a callback that saves the booster every so many rounds."""

from collections.abc import Callable
from typing import Any

from artifact_pipelines.sdk import Run

FILE = "model.txt"


def run_callback(run: Run, every: int = 1) -> Callable[[Any], None]:
    """Return a callback for `lightgbm.train` that saves the booster; a step is a round.

    A booster goes on from another by that one's predictions, which LightGBM does not add up as
    it did while training: a resumed booster agrees with an uninterrupted one to about seven
    digits, and not in every bit. Generators of bagging are not handed out either.
    """
    # A booster that goes on from another counts that one's rounds as well.
    done = 0 if run.resume is None else run.resume.step

    def save(env: Any) -> None:
        rounds = done + env.iteration + 1 - env.begin_iteration
        if rounds % every:
            return
        results = env.evaluation_result_list or ()
        run.checkpoint(
            None,
            step=rounds,
            metrics={f"{data}-{metric}": value for data, metric, value, *_ in results},
            files={FILE: env.model.model_to_string(num_iteration=-1).encode()},
            about={"framework": "lightgbm", "holds": ["optimizer"]},
        )

    return save


def resume(run: Run) -> tuple[str | None, int]:
    """Return the file to pass as `init_model`, or nothing, and how many rounds it has."""
    if run.resume is None:
        return None, 0
    return str(run.resume.folder / FILE), run.resume.step
