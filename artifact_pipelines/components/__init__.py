"""The Dagster components that users declare in YAML."""

from artifact_pipelines.components.model_pipeline import ModelPipeline

__all__ = ["ModelPipeline"]
