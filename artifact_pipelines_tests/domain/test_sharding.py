"""Shards are a cut of the work: nothing is left out, and nothing is done twice."""

from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.sharding import shards

SIZES = st.lists(st.integers(min_value=0, max_value=1 << 40), max_size=60)
EACH = st.integers(min_value=1, max_value=1 << 32)
MOST = st.integers(min_value=1, max_value=40)


@given(SIZES, EACH, MOST)
def test_each_item_is_in_one_shard_in_its_order(sizes: list[int], each: int, most: int) -> None:
    items = list(enumerate(sizes))
    found = shards(items, lambda item: item[1], each, most=most)

    assert [item for shard in found for item in shard] == items
    assert all(found)


@given(SIZES, EACH, MOST)
def test_there_are_no_more_shards_than_asked_for_or_needed(
    sizes: list[int], each: int, most: int
) -> None:
    found = shards(sizes, lambda size: size, each, most=most)

    assert len(found) <= min(most, max(1, -(-sum(sizes) // each)))


@given(SIZES, EACH, MOST)
def test_a_shard_is_larger_than_its_share_by_one_item_at_most(
    sizes: list[int], each: int, most: int
) -> None:
    found = shards(sizes, lambda size: size, each, most=most)
    share = max(each, -(-sum(sizes) // most))

    assert all(sum(shard) <= share + max(shard) for shard in found)


def test_work_without_size_is_one_shard() -> None:
    assert shards(["a", "b"], lambda _: 0, 10) == [["a", "b"]]
    assert shards([], len, 10) == []
