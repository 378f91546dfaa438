"""Checks that read a model's bytes, its data or its figures, and say what they found."""
