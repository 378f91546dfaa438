"""XGBoost: a callback that saves the booster every so many rounds."""

from collections.abc import Mapping
from typing import Any

import xgboost

from artifact_pipelines.sdk import Run

FILE = "model.ubj"


class RunCallback(xgboost.callback.TrainingCallback):
    """Saves the booster to a run; a step is a round of boosting.

    A booster's trees are all of its state but for row and column sampling, whose generator
    XGBoost does not hand out: without sampling, resumption is exact.
    """

    def __init__(self, run: Run, every: int = 1) -> None:
        """Save to a run."""
        super().__init__()
        self.run = run
        self.every = every

    def after_iteration(
        self, model: xgboost.Booster, epoch: int, evals_log: Mapping[str, Mapping[str, Any]]
    ) -> bool:
        """Hand over the booster, and never stop the training."""
        del epoch
        rounds = model.num_boosted_rounds()
        if rounds % self.every == 0:
            metrics = {
                f"{data}-{metric}": values[-1][0] if isinstance(values[-1], tuple) else values[-1]
                for data, figures in evals_log.items()
                for metric, values in figures.items()
            }
            about = {"framework": "xgboost", "holds": ["optimizer"]}
            raw = bytes(model.save_raw("ubj"))
            self.run.checkpoint(None, step=rounds, metrics=metrics, files={FILE: raw}, about=about)
        return False


def resume(run: Run) -> tuple[xgboost.Booster | None, int]:
    """Return the booster to pass as `xgb_model`, or nothing, and how many rounds it has."""
    if run.resume is None:
        return None, 0
    booster = xgboost.Booster()
    booster.load_model(run.resume.folder / FILE)
    return booster, run.resume.step
