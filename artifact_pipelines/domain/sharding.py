"""Cutting a list of work into shards, the same way whoever cuts it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

MOST = 256
"""The shards that one piece of work is cut into, at most: each is a step that is followed."""


def shards(
    items: Sequence[T], size: Callable[[T], int], each: int, *, most: int = MOST
) -> list[list[T]]:
    """Return items in their order, cut into shards of about a size, none of them empty.

    Args:
        items: The work.
        size: How much of it an item is.
        each: How much a shard should hold; it holds more where there would be too many.
        most: How many shards there may be.
    """
    sizes = [max(size(item), 0) for item in items]
    total = sum(sizes)
    count = max(1, min(most, -(-total // each)))
    found: list[list[T]] = [[] for _ in range(count)]
    before = 0
    for item, length in zip(items, sizes, strict=True):
        # Where an item begins says which shard it is in, so that no later one changes that.
        found[min(count - 1, before * count // max(total, 1))].append(item)
        before += length
    return [shard for shard in found if shard]
