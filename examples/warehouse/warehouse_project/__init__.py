"""A Dagster repository with assets of its own, which gained models."""
