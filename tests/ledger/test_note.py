"""Signed notes, checkpoints and cosignatures: the known examples, and strict reading."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage
from fedmarket.federation.identity import Identity, new_identity
from fedmarket.ledger.note import COSIGNATURE, Checkpoint, Note, VerifierKey, read_checkpoint, read_note

# The example of Go's golang.org/x/mod/sumdb/note: a published private key, verifier key, text and signature.
SECRET = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
NEUMANN = Identity(Ed25519PrivateKey.from_private_bytes(SECRET))
SIGNED = f"{TEXT}\n{LINE}".encode()

# The example of C2SP's tlog-cosignature (its line break inside of base64 taken out).
COSIGNED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()

ROOT = bytes(range(32))
CHECKPOINT = Checkpoint(origin="log.example/1", size=7, root=ROOT)
LOG, WITNESS = new_identity(), new_identity()
LOG_KEY = VerifierKey(name="log.example/1", public_key=LOG.public_key)
WITNESS_KEY = VerifierKey(name="witness", public_key=WITNESS.public_key, kind=COSIGNATURE)


def checkpoint_note():
    return Note(text=CHECKPOINT.to_text(), signatures=()).signed(LOG_KEY.name, LOG)


def test_the_known_note_is_made_and_verified_byte_for_byte():
    key = VerifierKey(name="PeterNeumann", public_key=NEUMANN.public_key)
    assert str(key) == VERIFIER
    assert VerifierKey.from_text(VERIFIER) == key
    assert Note(text=TEXT, signatures=()).signed("PeterNeumann", NEUMANN).to_bytes() == SIGNED
    read_note(SIGNED).need_signed_by(key)


def test_the_known_cosigned_checkpoint_is_read():
    note = read_note(COSIGNED)
    assert note.to_bytes() == COSIGNED
    assert read_checkpoint(note.text, origin="example.com/behind-the-sofa").size == 20852163
    log, witness = note.signatures
    assert log.id.hex() == "033de0ae"
    assert witness.id.hex() == "8d66cf3f"
    assert int.from_bytes(witness.content[:8], "big") == 1679315147
    assert len(log.content) == 64
    assert len(witness.content) == 72


def test_a_cosignature_is_on_time_and_text():
    # tlog-cosignature: "cosignature/v1", the time, then the whole note body.
    line = checkpoint_note().cosignature("witness", WITNESS, time=1679315147)
    signed = b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT.to_text().encode()
    WITNESS._key.public_key().verify(line.content[8:], signed)
    note = read_note(checkpoint_note().with_line(line).to_bytes())
    note.need_signed_by(LOG_KEY)
    assert note.cosigned((WITNESS_KEY,)) == {"witness": 1679315147}


def test_a_signature_is_no_cosignature_and_the_other_way():
    note = checkpoint_note()
    as_cosigner = VerifierKey(name=LOG_KEY.name, public_key=LOG.public_key, kind=COSIGNATURE)
    assert as_cosigner.id != LOG_KEY.id
    assert note.cosigned((as_cosigner,)) == {}
    with pytest.raises(BadMessage, match="a cosignature of the note is not"):
        note.cosigned((LOG_KEY,))
    cosigned = Note(text=note.text, signatures=(note.cosignature(LOG_KEY.name, LOG, time=1),))
    with pytest.raises(BadMessage, match="not signed by"):
        cosigned.need_signed_by(LOG_KEY)


@pytest.mark.parametrize("change", [1, 9, 40])
def test_a_changed_time_or_signature_is_noticed(change):
    line = checkpoint_note().cosignature("witness", WITNESS, time=5)
    content = bytearray(line.content)
    content[change] ^= 1
    bad = checkpoint_note().with_line(type(line)(name=line.name, id=line.id, content=bytes(content)))
    with pytest.raises(BadMessage, match="not witness's"):
        bad.cosigned((WITNESS_KEY,))


def test_who_did_not_sign_is_named():
    with pytest.raises(BadMessage, match="not signed by PeterNeumann"):
        checkpoint_note().need_signed_by(VerifierKey.from_text(VERIFIER))
    assert checkpoint_note().cosigned((WITNESS_KEY,)) == {}


def test_a_false_line_beside_a_good_one_is_noticed():
    note = checkpoint_note()
    false = type(note.signatures[0])(name=LOG_KEY.name, id=LOG_KEY.id, content=bytes(64))
    with pytest.raises(BadMessage, match="is not log"):
        note.with_line(false).need_signed_by(LOG_KEY)


@given(st.integers(0, 8 * len(SIGNED) - 1))
def test_no_bit_of_a_signed_note_can_be_changed(place):
    changed = bytearray(SIGNED)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(BadMessage):
        read_note(bytes(changed)).need_signed_by(VerifierKey.from_text(VERIFIER))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}{LINE}".encode(),
        SIGNED[:-1],
        SIGNED + b"\n",
        SIGNED + b"more\n",
        SIGNED.replace(b"\n", b"\r\n"),
        SIGNED.replace(b"think", b"th\0ink"),
        SIGNED.replace("— ".encode(), b"- "),
        SIGNED.replace("— ".encode(), "—  ".encode()),
        SIGNED.replace(b"PeterNeumann x", b"Peter Neumann x"),
        SIGNED.replace(b"PeterNeumann x", b"Peter+Neumann x"),
        SIGNED.replace(b"JnAM=", b"JnAN="),
        SIGNED.replace(b"JnAM=", b"JnAM"),
        f"{TEXT}\n— PeterNeumann AAAA\n".encode(),
        f"\n\n{LINE}".encode()[1:],
        b"\xff" + SIGNED,
        SIGNED + LINE.encode() * 128,
        b"a" * 40_000 + SIGNED,
    ],
)
def test_what_is_no_note_is_refused(content):
    with pytest.raises(BadMessage) as caught:
        read_note(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        VERIFIER[:-1],
        VERIFIER.replace("c74f20a3", "c74f20a4"),
        VERIFIER.replace("c74f20a3", "C74F20A3"),
        VERIFIER.replace("PeterNeumann", "Peter Neumann"),
        VERIFIER.replace("PeterNeumann", ""),
        VERIFIER.replace("+AR", "+BR"),
        "a+00000000+" + base64.b64encode(b"\1" + bytes(31)).decode(),
    ],
)
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(BadMessage):
        VerifierKey.from_text(text)


def test_a_checkpoint_is_read_back():
    assert read_checkpoint(CHECKPOINT.to_text(), origin="log.example/1") == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        CHECKPOINT.to_text()[:-1],
        CHECKPOINT.to_text() + "extension\n",
        CHECKPOINT.to_text() + "\n",
        CHECKPOINT.to_text().replace("\n7\n", "\n07\n"),
        CHECKPOINT.to_text().replace("\n7\n", "\n-7\n"),
        CHECKPOINT.to_text().replace("\n7\n", "\n+7\n"),
        CHECKPOINT.to_text().replace("\n7\n", "\n\uff17\n"),
        CHECKPOINT.to_text().replace("\n7\n", "\n" + "9" * 30 + "\n"),
        CHECKPOINT.to_text().replace("log.example/1", "log.example/2"),
        Checkpoint(origin="log.example/1", size=7, root=ROOT[:31]).to_text(),
        CHECKPOINT.to_text().replace("=", ""),
    ],
)
def test_what_is_no_checkpoint_of_this_log_is_refused(text):
    with pytest.raises(BadMessage):
        read_checkpoint(text, origin="log.example/1")


@pytest.mark.parametrize("time", [0, -1, 2**63])
def test_a_cosignature_has_a_time(time):
    with pytest.raises(BadMessage, match="after 1970"):
        checkpoint_note().cosignature("witness", WITNESS, time=time)
