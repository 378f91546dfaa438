"""What a trainer calls: start a run, save its checkpoints, resume it, find what serves.

Trainers pay for this import, so what is heavy is imported where it is used.
"""

from artifact_pipelines.sdk.datasets import register_dataset
from artifact_pipelines.sdk.running import Resolved, ResumePoint, Run, resolve, start_run

__all__ = ["Resolved", "ResumePoint", "Run", "register_dataset", "resolve", "start_run"]
