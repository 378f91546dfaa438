"""Make an MLflow store: run by an interpreter that has MLflow, in the folder to fill."""

from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

here = Path.cwd()
mlflow.set_tracking_uri(f"sqlite:///{here}/mlflow.db")
mlflow.create_experiment("digits exp", artifact_location=(here / "artifacts").as_uri())
mlflow.set_experiment("digits exp")
with mlflow.start_run(run_name="bold run") as run:
    mlflow.log_params({"lr": "0.1", "depth": "3"})
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
client.create_registered_model("digits")
for _ in range(2):
    source = f"{run.info.artifact_uri}/model"
    version = client.create_model_version("digits", source, run.info.run_id, description="good")
    client.set_registered_model_alias("digits", "champion", version.version)
client.set_registered_model_alias("digits", "production", "1")
