"""The Merkle tree of RFC 6962: roots, inclusion proofs and consistency proofs.

Hashes of complete subtrees are addressed by (level, index): level 0 holds the leaf
hashes, and node (l, i) covers the leaves from i·2**l up to, without, (i + 1)·2**l.
"""

import hashlib
from collections.abc import Callable, Sequence

HashOf = Callable[[int, int], bytes]
"""The hash of the complete subtree at a level and index."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an interior node (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """Return the root of the tree over some leaf hashes."""
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append(
            [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)],
        )
    return root_at(len(hashes), lambda level, index: levels[level][index])


def root_at(size: int, hash_of: HashOf) -> bytes:
    """Return the root of the tree of the first `size` leaves."""
    if size == 0:
        return hashlib.sha256(b"").digest()
    return _range(0, size, hash_of)


def inclusion_proof(index: int, size: int, hash_of: HashOf) -> list[bytes]:
    """Return the audit path of a leaf in the tree of a size (RFC 6962 §2.1.1).

    Raises:
        ValueError: The leaf is not in the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves.")
    path = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range(middle, high, hash_of))
            high = middle
        else:
            path.append(_range(low, middle, hash_of))
            low = middle
    return path[::-1]


def consistency_proof(old: int, new: int, hash_of: HashOf) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is a prefix (RFC 6962 §2.1.2).

    Raises:
        ValueError: The sizes are not in order.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} leaves is no prefix of one of {new}.")
    if old in {0, new}:
        return []
    path = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range(middle, high, hash_of))
            high = middle
        else:
            path.append(_range(low, middle, hash_of))
            low, whole = middle, False
    if not whole:
        path.append(_range(low, high, hash_of))
    return path[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> bool:
    """Return whether a leaf hash is at an index of the tree with a root (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and found == expected


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether one tree is a prefix of another (RFC 9162 §2.1.4.2)."""
    if old == new:
        return not proof and old_root == new_root
    if not 0 <= old < new:
        return False
    if old == 0:
        return not proof
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root


def _split(count: int) -> int:
    """Return the largest power of two below a count of at least two."""
    return 1 << ((count - 1).bit_length() - 1)


def _range(low: int, high: int, hash_of: HashOf) -> bytes:
    """Return the root over the leaves from `low` up to, without, `high`."""
    count = high - low
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return hash_of(level, low >> level)
    middle = low + _split(count)
    return node_hash(_range(low, middle, hash_of), _range(middle, high, hash_of))
