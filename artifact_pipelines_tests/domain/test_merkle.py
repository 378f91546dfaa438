"""The tree of RFC 6962, against its published vectors and another implementation."""

import hashlib
from collections.abc import Sequence

import pymerkle  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import merkle

# The leaves and roots of the reference implementation of Certificate Transparency.
VECTOR_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
VECTOR_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


class Nodes:
    """The complete nodes of a tree, stored as the catalog does."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}
        self.peaks: list[bytes] = []
        for size, leaf in enumerate(leaves):
            hashed = merkle.leaf_hash(leaf)
            self.peaks = merkle.append(self.peaks, size, hashed)
            self.hashes[0, size] = hashed
            for level, index in merkle.completed(size + 1):
                self.hashes[level, index] = merkle.node_hash(
                    self.hashes[level - 1, 2 * index], self.hashes[level - 1, 2 * index + 1]
                )

    def __call__(self, level: int, index: int) -> bytes:
        return self.hashes[level, index]


def leaves(size: int) -> list[bytes]:
    return [str(number).encode() for number in range(size)]


def mth(data: Sequence[bytes]) -> bytes:
    """The definition of the root, word by word from RFC 6962, 2.1."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while 2 * k < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def test_the_published_roots_come_out() -> None:
    for size, root in enumerate(VECTOR_ROOTS):
        data = VECTOR_LEAVES[:size]

        assert merkle.root([merkle.leaf_hash(leaf) for leaf in data]).hex() == root
        assert merkle.root_at(size, Nodes(VECTOR_LEAVES)).hex() == root


def test_published_proofs_come_out() -> None:
    nodes = Nodes(VECTOR_LEAVES)

    assert [node.hex() for node in merkle.inclusion_proof(5, 8, nodes)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [node.hex() for node in merkle.consistency_proof(6, 8, nodes)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_small_tree_agrees_with_the_definition_and_with_pymerkle() -> None:
    nodes = Nodes(leaves(40))
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for size in range(1, 41):
        tree.append_entry(leaves(40)[size - 1])
        root = merkle.root_at(size, nodes)

        assert root == mth(leaves(size))
        assert root == tree.get_root()
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, nodes)

            assert merkle.verify_inclusion(nodes(0, index), index, size, proof, root)
            theirs = tree.prove_inclusion(index + 1, size)
            pymerkle.verify_inclusion(nodes(0, index), root, theirs)
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(old, size, nodes)

            assert merkle.verify_consistency(old, size, mth(leaves(old)), root, proof)


@given(st.integers(0, 300))
def test_the_peaks_give_the_root(size: int) -> None:
    nodes = Nodes(leaves(size))

    assert merkle.root_of_peaks(nodes.peaks) == merkle.root_at(size, nodes)
    assert len(nodes.peaks) == size.bit_count()


@given(st.integers(1, 200), st.data())
def test_a_proof_proves_nothing_else(size: int, data: st.DataObject) -> None:
    nodes = Nodes(leaves(size))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, nodes)
    root = merkle.root_at(size, nodes)
    other = (
        data.draw(st.integers(0, size - 1).filter(lambda number: number != index))
        if (size > 1)
        else index + 1
    )

    assert not merkle.verify_inclusion(nodes(0, index), other, size, proof, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"x"), index, size, proof, root)
    assert not merkle.verify_inclusion(nodes(0, index), index, size, [*proof, root], root)
    assert not merkle.verify_inclusion(nodes(0, index), index, size, proof, b"\x00" * 32)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        damaged = [*proof[:place], bytes(32), *proof[place + 1 :]]

        assert not merkle.verify_inclusion(nodes(0, index), index, size, damaged, root)
        assert not merkle.verify_inclusion(nodes(0, index), index, size, proof[:-1], root)


@given(st.integers(1, 120), st.data())
def test_a_log_that_was_rewritten_is_never_consistent(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old - 1))
    rewritten = leaves(size)
    rewritten[changed] = b"forged"
    forged = Nodes(rewritten)
    proof = merkle.consistency_proof(old, size, forged)

    assert not merkle.verify_consistency(
        old, size, mth(leaves(old)), merkle.root_at(size, forged), proof
    )


@given(st.integers(2, 120), st.data())
def test_a_damaged_consistency_proof_is_refused(size: int, data: st.DataObject) -> None:
    nodes = Nodes(leaves(size))
    old = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(old, size, nodes)
    place = data.draw(st.integers(0, len(proof) - 1))
    roots = merkle.root_at(old, nodes), merkle.root_at(size, nodes)
    damaged = [*proof[:place], bytes(32), *proof[place + 1 :]]

    assert merkle.verify_consistency(old, size, *roots, proof)
    assert not merkle.verify_consistency(old, size, *roots, damaged)
    assert not merkle.verify_consistency(old, size, *roots, proof[:-1])
    assert not merkle.verify_consistency(old, size, *roots, [*proof, bytes(32)])
    assert not merkle.verify_consistency(old, size, bytes(32), roots[1], proof)
    assert not merkle.verify_consistency(old, size, roots[0], bytes(32), proof)


def test_the_edges_of_consistency() -> None:
    nodes = Nodes(leaves(5))
    root = merkle.root_at(5, nodes)

    assert merkle.consistency_proof(0, 5, nodes) == merkle.consistency_proof(5, 5, nodes) == []
    assert merkle.verify_consistency(0, 5, merkle.EMPTY, root, [])
    assert merkle.verify_consistency(5, 5, root, root, [])
    assert not merkle.verify_consistency(0, 5, root, root, [])
    assert not merkle.verify_consistency(0, 5, merkle.EMPTY, root, [root])
    assert not merkle.verify_consistency(5, 5, root, root, [root])
    assert not merkle.verify_consistency(5, 5, root, merkle.EMPTY, [])
    assert not merkle.verify_consistency(6, 5, root, root, [])
    assert not merkle.verify_consistency(-1, 5, root, root, [])
    assert not merkle.verify_consistency(3, 5, root, root, [])


@pytest.mark.parametrize("index, size", [(5, 5), (-1, 5), (0, 0)])
def test_a_leaf_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        merkle.inclusion_proof(index, size, Nodes(leaves(5)))

    assert not merkle.verify_inclusion(bytes(32), index, size, [], bytes(32))


def test_a_larger_tree_is_not_contained_in_a_smaller_one() -> None:
    with pytest.raises(ValueError, match="does not contain"):
        merkle.consistency_proof(6, 5, Nodes(leaves(5)))


def test_peaks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="peaks"):
        merkle.append([bytes(32)], 2 + 1, bytes(32))


@given(st.integers(1, 1 << 40))
def test_each_leaf_completes_one_node_for_each_peak_that_goes(size: int) -> None:
    gone = (size - 1).bit_count() + 1 - size.bit_count()

    assert [level for level, _ in merkle.completed(size)] == list(range(1, gone + 1))
    assert all((index + 1) << level == size for level, index in merkle.completed(size))
