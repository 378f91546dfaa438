"""Decisions over records that come as data files: access rules."""
