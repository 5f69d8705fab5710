"""What the fuzzer of ``fuzz_decoders.py`` found, and what was found beside it, once each."""

import io
import json
import runpy
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedmarket.errors import BadMessage, DataError
from fedmarket.ledger import verify as module
from fedmarket.ledger.bundle import MOST_CHECKPOINTS, Manifest, read_bundle
from fedmarket.ledger.canonical import canonical
from fedmarket.ledger.envelope import read_envelope, seal

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))
identity_of = MADE["identity_of"]


@pytest.mark.parametrize("keyid", ["\x1b[2J", "a\nb", "", "A" * 64, "a" * 63, "a" * 64 + "\n", "é" * 64])
def test_a_keyid_that_is_no_hash_is_refused_and_not_repeated(keyid):
    document = json.loads(seal(b"{}", identity_of("Alpha Bank")))
    document["signatures"][0]["keyid"] = keyid
    with pytest.raises(BadMessage, match="expected a keyid of 64") as caught:
        read_envelope(canonical(document))
    assert str(caught.value).isprintable()


def zip_of(count: int, **changed: bytes) -> bytes:
    with io.BytesIO() as whole:
        with zipfile.ZipFile(whole, "w") as archive:
            archive.comment = changed.get("comment", b"")
            for number in range(count):
                archive.writestr(f"checkpoint-{number}.note", b"")
        return whole.getvalue()


def with_zip64(content: bytes) -> bytes:
    """Put a record and a locator of zip64 before the end of a zip: their sizes count, not those at its end."""
    end, start, size = content[-22:], int.from_bytes(content[-6:-2], "little"), content[-10:-6]
    record = b"PK\x06\x06" + (44).to_bytes(8, "little") + bytes(28) + size + bytes(4) + start.to_bytes(8, "little")
    locator = b"PK\x06\x07" + bytes(4) + (len(content) - 22).to_bytes(8, "little") + (1).to_bytes(4, "little")
    return content[:-22] + record + locator + end


@pytest.mark.parametrize(
    "content",
    [zip_of(5000), zip_of(1, comment=b"read me"), with_zip64(zip_of(5000)), with_zip64(zip_of(1))],
    ids=["many", "comment", "many with zip64", "zip64"],
)
def test_the_list_of_a_zip_is_not_read_before_its_size_is_known(tmp_path, monkeypatch, content):
    (tmp_path / "bundle.zip").write_bytes(content)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(DataError, match="without comment and zip64"):
        read_bundle(tmp_path / "bundle.zip")


def test_a_zip_of_as_many_files_as_a_bundle_may_have_is_read(tmp_path):
    (tmp_path / "bundle.zip").write_bytes(zip_of(MOST_CHECKPOINTS))
    with pytest.raises(DataError, match=r"manifest\.json: missing"):
        read_bundle(tmp_path / "bundle.zip")


@pytest.mark.parametrize("key", ["parties", "auditors", "runs"])
def test_of_a_thousand_wrong_values_in_a_manifest_the_first_is_held(key):
    good = json.loads(canonical(MADE["Market"]().manifest().model_dump()))
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(good | {key: [0] * 1000})
    assert caught.value.error_count() <= 2  # the value, and that no list is left


def test_keys_that_a_party_gave_up_are_made_once_and_not_for_every_checkpoint(monkeypatch):
    market = MADE["Market"]().opened()
    party = market.parties[0]
    for number in range(20):
        new = identity_of(f"new {number}")
        party.say("rotated", public_key=new.public_hex, reason="a new machine")
        party.signer = new
        market.logged()
    made, witness_key = Counter(), module.witness_key
    monkeypatch.setattr(module, "witness_key", lambda key: made.update([key]) or witness_key(key))
    assert module.verify(market.bundle()).good
    assert made[identity_of("new 5").public_key] <= 3
