"""The hash tree of RFC 6962 over the leaves of the ledger, with its proofs.

A node is named by its level and its index there: node (l, i) covers the leaves from
i * 2**l up to (i + 1) * 2**l. Proofs are made from complete nodes only, which never change
once they exist, so each is stored once.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

EMPTY: Final = hashlib.sha256(b"").digest()

HashOf = Callable[[int, int], bytes]
"""Returns the hash of the complete node at a level and index."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    peaks: list[bytes] = []
    for size, hashed in enumerate(hashes):
        peaks = append(peaks, size, hashed)
    return root_of_peaks(peaks)


def append(peaks: Sequence[bytes], size: int, hashed: bytes) -> list[bytes]:
    """Return the peaks of a tree after one more leaf.

    Args:
        peaks: The roots of the complete subtrees of the tree so far, the largest first.
        size: The number of leaves so far.
        hashed: The hash of the new leaf.

    Raises:
        ValueError: If a tree of that size has another number of peaks.
    """
    if len(peaks) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}.")
    grown = list(peaks)
    while size & 1:
        hashed = node_hash(grown.pop(), hashed)
        size >>= 1
    grown.append(hashed)
    return grown


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Return the root over the roots of the complete subtrees, the largest first."""
    if not peaks:
        return EMPTY
    hashed = peaks[-1]
    for peak in reversed(peaks[:-1]):
        hashed = node_hash(peak, hashed)
    return hashed


def completed(size: int) -> list[tuple[int, int]]:
    """Return the inner nodes, lowest first, that leaf number `size - 1` completes."""
    nodes = []
    level, rest = 1, size
    while rest and rest % 2 == 0:
        rest //= 2
        nodes.append((level, rest - 1))
        level += 1
    return nodes


def root_at(size: int, hash_of: HashOf) -> bytes:
    """Return the root over the first leaves."""
    return _range_root(0, size, hash_of)


def _range_root(start: int, end: int, hash_of: HashOf) -> bytes:
    """Return the root over a range of leaves that starts where a subtree does."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(hash_of(level, start >> level))
        start += 1 << level
    return root_of_peaks(peaks)


def _split(width: int) -> int:
    """Return the largest power of two below a width of at least two."""
    return 1 << (width - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, hash_of: HashOf) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root over the first leaves.

    Raises:
        ValueError: If the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}.")
    proof = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_root(middle, end, hash_of))
            end = middle
        else:
            proof.append(_range_root(start, middle, hash_of))
            start = middle
    return proof[::-1]


def consistency_proof(old_size: int, new_size: int, hash_of: HashOf) -> list[bytes]:
    """Return the hashes that show that the new tree starts with the whole old tree.

    Raises:
        ValueError: If the old tree is larger than the new one.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {new_size} leaves does not contain one of {old_size}.")
    if old_size in {0, new_size}:
        return []
    proof = []
    start, end, whole = 0, new_size, True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_root(middle, end, hash_of))
            end = middle
        else:
            proof.append(_range_root(start, middle, hash_of))
            start, whole = middle, False
    if not whole:
        proof.append(_range_root(start, end, hash_of))
    return proof[::-1]


def verify_inclusion(
    hashed: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> bool:
    """Return whether a proof leads from a leaf's hash to the expected root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last = index, size - 1
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            hashed = node_hash(sibling, hashed)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            hashed = node_hash(hashed, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and hashed == expected


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether a proof shows that one tree starts with the other (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old_hash = new_hash = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_hash = node_hash(sibling, old_hash)
            new_hash = node_hash(sibling, new_hash)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            new_hash = node_hash(new_hash, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and old_hash == old_root and new_hash == new_root
