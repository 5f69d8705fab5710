"""The Merkle tree of RFC 9162: hashes, proofs that a leaf is in it and that it only grew, and their verification.

Leaves and inner nodes are hashed with different first bytes, so that no node can stand for a leaf. Indices and sizes
count leaves; a tree over n leaves splits at the largest power of two below n.
"""

import hashlib
from collections.abc import Iterable, Sequence

from fedmarket.errors import BadMessage

HASH_SIZE = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 9162, section 2.1.1)."""


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\0" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows; it keeps the hashes of all complete subtrees, 64 bytes a leaf.

    Guarantees:
        Adding a leaf costs one hash in the mean; root and proofs of any earlier size cost a logarithm.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Build the tree over ``leaves``, their contents."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, content: bytes) -> None:
        """Add a leaf."""
        level, node = 0, leaf_hash(content)
        self._levels[0].append(node)
        while len(self._levels[level]) % 2 == 0:
            node = node_hash(self._levels[level][-2], node)
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves, by default over all.

        Raises:
            BadMessage: if the tree has fewer.
        """
        size = self.size if size is None else size
        self._need_within(0, size, self.size)
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that leaf ``index`` is in the tree of ``size`` (RFC 9162, section 2.1.3.1).

        Raises:
            BadMessage: unless index < size <= the tree's size.
        """
        self._need_within(index + 1, size, self.size)
        self._need_within(0, index, size)
        return self._path(index, 0, size)

    def consistency(self, old: int, size: int) -> list[bytes]:
        """Return the proof that the tree of ``size`` continues that of ``old`` (RFC 9162, section 2.1.4.1).

        It is empty for ``old == size``, and for ``old == 0``, which every tree continues.

        Raises:
            BadMessage: unless 0 <= old <= size <= the tree's size.
        """
        self._need_within(0, old, size)
        self._need_within(old, size, self.size)
        return self._subproof(old, 0, size, whole=True) if old else []

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._hash(middle, end)]
        return [*self._path(index, middle, end), self._hash(start, middle)]

    def _subproof(self, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        """Return SUBPROOF of the RFC; ``whole`` while the old tree's root is known to the verifier."""
        if old == end:
            return [] if whole else [self._hash(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._subproof(old, start, middle, whole=whole), self._hash(middle, end)]
        return [*self._subproof(old, middle, end, whole=False), self._hash(start, middle)]

    def _hash(self, start: int, end: int) -> bytes:
        """Return the hash over leaves ``start`` to ``end``; complete subtrees are looked up."""
        width = end - start
        if width & (width - 1) == 0:
            return self._levels[width.bit_length() - 1][start // width]
        middle = start + _split(width)
        return node_hash(self._hash(start, middle), self._hash(middle, end))

    @staticmethod
    def _need_within(low: int, value: int, high: int) -> None:
        if not low <= value <= high:
            raise BadMessage(f"a tree of {high} leaves has no place {value} here, expected {low} to {high}")


def _split(width: int) -> int:
    """Return the largest power of two below ``width``, which is above 1."""
    return int(1 << (width - 1).bit_length() - 1)


def need_included(leaf: bytes, proof: Sequence[bytes], *, index: int, size: int, root: bytes) -> None:
    """Raise a BadMessage unless ``proof`` shows that leaf ``index`` of the tree with ``root`` has the hash ``leaf``.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise BadMessage(f"a tree of {size} leaves has none at {index}")
    _need_hashes((leaf, root, *proof))
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise BadMessage("an inclusion proof is too long")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    if last or node != root:
        raise BadMessage(f"leaf {index} is not in the tree of {size} leaves")


def need_consistent(proof: Sequence[bytes], *, old: int, old_root: bytes, size: int, root: bytes) -> None:
    """Raise a BadMessage unless ``proof`` shows that the tree with ``root`` continues the one with ``old_root``.

    RFC 9162, section 2.1.4.2. Every tree continues the empty one, and each one itself: both with an empty proof.
    """
    if not 0 <= old <= size:
        raise BadMessage(f"a tree of {size} leaves cannot continue one of {old}")
    _need_hashes((old_root, root, *proof))
    if old in (0, size):
        known = EMPTY_ROOT if old == 0 else root
        if proof or old_root != known or (size == 0 and root != EMPTY_ROOT):
            raise BadMessage(f"the tree of {size} leaves is another than the one seen before")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise BadMessage("a consistency proof is too short")
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise BadMessage("a consistency proof is too long")
        if place & 1 or place == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        place, last = place >> 1, last >> 1
    if last or before != old_root or after != root:
        raise BadMessage(f"the tree of {size} leaves does not continue that of {old}")


def _need_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(found) != HASH_SIZE for found in hashes):
        raise BadMessage(f"every hash of a tree has {HASH_SIZE} bytes")
