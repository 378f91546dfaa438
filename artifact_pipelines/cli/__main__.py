"""`python -m artifact_pipelines.cli`."""

from artifact_pipelines.cli import main

main()
