"""The code location of the project: everything under `defs/`."""

from artifact_pipelines.project import load_project

defs = load_project(__file__)
