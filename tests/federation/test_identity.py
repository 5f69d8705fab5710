"""A long-term identity: its file is the owner's alone, and nothing shows the key."""

import os
import pickle
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from fedmarket.errors import ConfigError, UsageError
from fedmarket.federation.identity import Identity, load_identity, new_identity, save_identity


def test_an_identity_is_read_back_and_signs_as_before(tmp_path):
    identity = new_identity()
    save_identity(identity, tmp_path / "key.pem")
    again = load_identity(tmp_path / "key.pem")
    assert again.public_key == identity.public_key
    assert again.sign(b"text") == identity.sign(b"text")
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(again.public_hex)).verify(again.sign(b"text"), b"text")


def test_two_identities_differ():
    assert new_identity().public_key != new_identity().public_key


def test_a_seed_of_rfc_8032_gives_its_key_and_signature():
    # RFC 8032, section 7.1, test 2.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    identity = Identity(Ed25519PrivateKey.from_private_bytes(seed))
    assert identity.public_hex == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert identity.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_the_file_is_the_owners_alone_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_identity(new_identity(), tmp_path / "key.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) & 0o177 == 0


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "key.pem"
    save_identity(new_identity(), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        save_identity(new_identity(), path)
    assert path.read_bytes() == before
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(UsageError):
        save_identity(new_identity(), link)
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        save_identity(new_identity(), tmp_path / "none" / "key.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "key.pem"
    save_identity(new_identity(), path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="open to group or others"):
        load_identity(path)


def test_what_is_no_regular_file_of_the_owners_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "key.pem"
    save_identity(new_identity(), path)
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for wrong in (link, tmp_path / "fifo", tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError) as caught:
            load_identity(wrong)
        assert str(caught.value).startswith(f"{wrong}: ")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load_identity(path)


def private_file(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_other_keys_and_other_bytes_are_refused_without_showing_them(tmp_path):
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        load_identity(private_file(tmp_path / "x25519.pem", other))
    locked = new_identity()._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    for number, content in enumerate((b"", b"secret words", locked, other[:50], os.urandom(9000))):
        with pytest.raises(ConfigError, match="not a private key in PEM") as caught:
            load_identity(private_file(tmp_path / f"{number}.pem", content))
        assert "secret words" not in str(caught.value)


def test_repr_str_and_pickle_show_no_key():
    identity = new_identity()
    private = identity._key.private_bytes_raw()
    for text in (repr(identity), str(identity), repr([identity])):
        assert private.hex() not in text
        assert repr(private) not in text
        assert identity.public_hex in text
    with pytest.raises(TypeError):
        pickle.dumps(identity)
