"""The use cases: the only writer of the catalog and the store."""
