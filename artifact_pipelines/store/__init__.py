"""Bytes: backends, chunking, packs, and the store that joins them."""
