"""The tree of RFC 9162: published roots and proofs, and no proof that can be bent."""

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage
from fedmarket.ledger.merkle import EMPTY_ROOT, Tree, leaf_hash, need_consistent, need_included, node_hash

# Test vectors of certificate-transparency (cpp/merkletree/merkle_tree_test.cc), whose tree RFC 6962 and 9162 share.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
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
INCLUSIONS = {  # (index, size): path
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCIES = {  # (old, size): proof
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
TREE = Tree(bytes([number]) for number in range(70))

# An earlier size and a later one; and a place before both.
GROWN = st.integers(1, 70).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size)))
PLACED = st.integers(1, 70).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size)))
REWRITTEN = PLACED.flatmap(lambda grown: st.tuples(st.integers(0, grown[0]), *map(st.just, (grown[0] + 1, grown[1]))))


def shown(proof):
    return [node.hex() for node in proof]


def test_roots_are_the_published_ones():
    tree = Tree()
    assert tree.root() == EMPTY_ROOT
    for size, root in enumerate(ROOTS):
        assert tree.root().hex() == root
        if size < len(LEAVES):
            tree.append(LEAVES[size])
    assert [tree.root(size).hex() for size in range(9)] == ROOTS


@pytest.mark.parametrize(("index", "size"), INCLUSIONS)
def test_inclusion_proofs_are_the_published_ones(index, size):
    assert shown(Tree(LEAVES).inclusion(index, size)) == INCLUSIONS[index, size]


@pytest.mark.parametrize(("old", "size"), CONSISTENCIES)
def test_consistency_proofs_are_the_published_ones(old, size):
    assert shown(Tree(LEAVES).consistency(old, size)) == CONSISTENCIES[old, size]


def plain_root(leaves):
    """The definition of RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = max(2**power for power in range(10) if 2**power < len(leaves))
    return hashlib.sha256(b"\1" + plain_root(leaves[:split]) + plain_root(leaves[split:])).digest()


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_the_root_is_that_of_the_definition(leaves):
    assert Tree(leaves).root() == plain_root(leaves)


def test_every_inclusion_proof_verifies_and_for_its_place_alone():
    for size in range(1, 34):
        root = TREE.root(size)
        for index in range(size):
            proof = TREE.inclusion(index, size)
            leaf = leaf_hash(bytes([index]))
            need_included(leaf, proof, index=index, size=size, root=root)
            for other in range(size):
                if other != index:
                    with pytest.raises(BadMessage):
                        need_included(leaf, proof, index=other, size=size, root=root)


def test_every_consistency_proof_verifies_and_for_its_sizes_alone():
    for size in range(34):
        for old in range(size + 1):
            proof = TREE.consistency(old, size)
            need_consistent(proof, old=old, old_root=TREE.root(old), size=size, root=TREE.root(size))
            for other in range(size + 1):
                if other != old and old:
                    with pytest.raises(BadMessage):
                        need_consistent(proof, old=other, old_root=TREE.root(old), size=size, root=TREE.root(size))


def bent(draw, proof, *others):
    """Return a proof that differs from ``proof``: a bit, a step more, a step less, another order."""
    hashes = list(proof)
    match draw(st.sampled_from(("bit", "more", "less", "swap"))):
        case "bit" if hashes:
            place, bit = draw(st.integers(0, len(hashes) - 1)), draw(st.integers(0, 255))
            changed = bytearray(hashes[place])
            changed[bit // 8] ^= 1 << bit % 8
            hashes[place] = bytes(changed)
        case "more":
            hashes.insert(draw(st.integers(0, len(hashes))), draw(st.sampled_from([bytes(32), *proof, *others])))
        case "less" if hashes:
            hashes.pop(draw(st.integers(0, len(hashes) - 1)))
        case "swap" if len(hashes) > 1:
            hashes.reverse()
    assume(hashes != list(proof))
    return hashes


@given(st.data(), PLACED)
def test_a_bent_inclusion_proof_fails(data, placed):
    index, size = placed
    leaf, root = leaf_hash(bytes([index])), TREE.root(size)
    proof = bent(data.draw, TREE.inclusion(index, size), leaf, root)
    with pytest.raises(BadMessage):
        need_included(leaf, proof, index=index, size=size, root=root)


@given(st.data(), GROWN)
def test_a_bent_consistency_proof_fails(data, grown):
    old, size = grown
    proof = bent(data.draw, TREE.consistency(old, size), TREE.root(old), TREE.root(size))
    with pytest.raises(BadMessage):
        need_consistent(proof, old=old, old_root=TREE.root(old), size=size, root=TREE.root(size))


@given(REWRITTEN)
def test_a_tree_that_was_rewritten_is_never_consistent(rewritten):
    place, old, size = rewritten
    other = Tree(bytes([number]) if number != place else b"rewritten" for number in range(70))
    for proof in (TREE.consistency(old, size), other.consistency(old, size)):
        with pytest.raises(BadMessage):
            need_consistent(proof, old=old, old_root=TREE.root(old), size=size, root=other.root(size))


def test_a_node_cannot_stand_for_a_leaf():
    # The second preimage that unprefixed trees allow: a leaf made of two nodes.
    left, right = leaf_hash(b"\0"), leaf_hash(b"\1")
    assert leaf_hash(left + right) != node_hash(left, right)
    with pytest.raises(BadMessage):
        need_included(leaf_hash(left + right), [], index=0, size=1, root=node_hash(left, right))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: TREE.root(71),
        lambda: TREE.root(-1),
        lambda: TREE.inclusion(3, 3),
        lambda: TREE.inclusion(-1, 3),
        lambda: TREE.inclusion(0, 71),
        lambda: TREE.consistency(4, 3),
        lambda: TREE.consistency(-1, 3),
        lambda: TREE.consistency(1, 71),
        lambda: need_included(bytes(32), [], index=0, size=0, root=bytes(32)),
        lambda: need_included(bytes(32), [bytes(31)], index=0, size=2, root=bytes(32)),
        lambda: need_consistent([], old=2, old_root=bytes(32), size=1, root=bytes(32)),
        lambda: need_consistent([], old=0, old_root=bytes(32), size=1, root=bytes(32)),
        lambda: need_consistent([], old=0, old_root=EMPTY_ROOT, size=0, root=bytes(32)),
        lambda: need_consistent([bytes(32)], old=0, old_root=EMPTY_ROOT, size=1, root=bytes(32)),
        lambda: need_consistent([], old=3, old_root=bytes(32), size=5, root=bytes(32)),
    ],
)
def test_what_no_tree_has_is_refused(ask):
    with pytest.raises(BadMessage):
        ask()
