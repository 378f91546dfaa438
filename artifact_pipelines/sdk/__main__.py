"""`python -m artifact_pipelines.sdk`: train as Dagster asks."""

from artifact_pipelines.sdk.worker import main

raise SystemExit(main())
