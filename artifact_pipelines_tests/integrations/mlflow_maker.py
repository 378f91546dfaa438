"""Fill an MLflow store: `python mlflow_maker.py [TRACKING_URI]`, in a folder of its own.

It is run by an interpreter that has MLflow, which need not be the one of the tests. Without a
URI the store is `mlflow.db` in that folder.
"""

import os
import sys
from pathlib import Path

# MLflow means to take leave of its file store, and wants to be asked for it.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

import mlflow
import mlflow.data
import numpy as np
from mlflow.tracking import MlflowClient

here = Path.cwd()
uri = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{here}/mlflow.db"
mlflow.set_tracking_uri(uri)
remote = uri.startswith("http")
place = None if remote else (here / "artifacts").as_uri()
mlflow.create_experiment("digits exp", artifact_location=place)
mlflow.set_experiment("digits exp")
rows = mlflow.data.from_numpy(np.arange(6.0).reshape(3, 2), source="s3://data/rows", name="rows")
with mlflow.start_run(run_name="bold run") as run:
    mlflow.log_params({"lr": "0.1", "depth": "3"})
    mlflow.log_input(rows, context="training")
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("broken", float("nan"), step=1)
    (here / "model.pkl").write_bytes(b"weights")
    mlflow.log_artifact("model.pkl", "model")
    mlflow.set_tag("team", "vision")
    with mlflow.start_run(run_name="nested", nested=True) as nested:
        mlflow.log_metric("loss", 2.0, step=5)
client = MlflowClient()
client.set_terminated(nested.info.run_id, "FAILED")
client.create_run(run.info.experiment_id, run_name="still going")
client.create_registered_model("digits", description="reads digits")
for _ in range(2):
    source = f"{run.info.artifact_uri}/model"
    version = client.create_model_version("digits", source, run.info.run_id, description="good")
    client.set_registered_model_alias("digits", "champion", version.version)
client.set_model_version_tag("digits", "2", "task", "vision")
client.set_registered_model_alias("digits", "production", "1")
