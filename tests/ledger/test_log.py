"""The server's log and its witnesses: what was logged stays, and a log with two faces is not cosigned."""

import pytest

from fedmarket.errors import BadMessage, DataError, Refusal, UsageError
from fedmarket.federation.identity import new_identity
from fedmarket.ledger.envelope import seal
from fedmarket.ledger.log import Log, Witness, witness_key
from fedmarket.ledger.merkle import leaf_hash, need_included
from fedmarket.ledger.note import read_checkpoint, read_note

SERVER = new_identity()
ORIGIN = "ledger.example/market"


@pytest.fixture
def log_at(tmp_path):
    made = []

    def opening(name="log", **changed):
        made.append(Log.open(tmp_path / name, **{"origin": ORIGIN, "signer": SERVER} | changed))
        return made[-1]

    yield opening
    for log in made:
        log.close()


@pytest.fixture
def witness(tmp_path, known, log_at):
    """The party's witness, made anew from its file each time."""
    key = log_at("unused").key
    return lambda path="witness.note", log=key: Witness(tmp_path / path, log=log, signer=known.alpha)


def envelopes(known, *numbers):
    return [seal(b"%d" % number, known.alpha) for number in numbers]


def shown(log, witness):
    """Show the log's checkpoint to a witness with the proof it needs, and return what the witness answers."""
    return witness.cosign(log.checkpoint().to_bytes(), log.consistency(witness.size, log.size), clock=lambda: 1000.5)


def test_a_reopened_log_is_the_same(log_at, known):
    log = log_at()
    assert log.extend(envelopes(known, 1, 2, 3)) == [0, 1, 2]
    note, kept = log.checkpoint(), log.envelopes
    log.close()
    again = log_at()
    assert (again.checkpoint(), again.envelopes, again.size) == (note, kept, 3)


def test_an_envelope_has_one_place_however_often_it_is_sent(log_at, known):
    log = log_at()
    first, second = envelopes(known, 1, 2)
    assert log.extend([first, second, first]) == [0, 1, 0]
    assert log.extend([second]) == [1]
    assert log.size == 2


def test_what_is_no_envelope_is_not_logged(log_at, known):
    log = log_at()
    with pytest.raises(BadMessage):
        log.extend([*envelopes(known, 1), b"{}"])
    assert log.size == 0


def test_every_logged_envelope_is_proved_to_be_in_the_checkpoint(log_at, known):
    log = log_at()
    places = log.extend(envelopes(known, *range(7)))
    note = read_note(log.checkpoint().to_bytes())
    note.need_signed_by(log.key)
    found = read_checkpoint(note.text, origin=ORIGIN)
    assert found.size == 7
    for place, envelope in zip(places, envelopes(known, *range(7)), strict=True):
        need_included(leaf_hash(envelope), log.inclusion(place, 7), index=place, size=7, root=found.root)


def test_two_processes_cannot_have_one_log(log_at):
    log_at()
    with pytest.raises(UsageError, match="the log is in use"):
        log_at()


def test_a_witness_cosigns_a_log_that_only_grows(log_at, witness, known):
    log = log_at()
    for size in range(6):
        line = shown(log, witness())
        note = read_note(log.checkpoint().with_line(line).to_bytes())
        assert note.cosigned((witness_key(known.alpha.public_key),)) == {witness_key(known.alpha.public_key).name: 1000}
        assert witness().size == size
        log.extend(envelopes(known, size))


def test_the_same_checkpoint_can_be_cosigned_again(log_at, witness, known):
    log = log_at()
    log.extend(envelopes(known, 1))
    assert shown(log, witness()) == shown(log, witness())


def refused(log, witness, said, proof=None):
    """Expect a refusal that leaves the witness's memory as it was and the evidence beside it."""
    note = log.checkpoint().to_bytes()
    old = min(witness.size, log.size)
    with pytest.raises(Refusal, match=f"the log is inconsistent, and is not cosigned: {said}") as caught:
        witness.cosign(note, log.consistency(old, log.size) if proof is None else proof)
    assert "\n" not in str(caught.value)
    assert witness._path.with_name("witness.note.refused").read_bytes() == note


def test_a_log_that_shrank_is_not_cosigned(log_at, witness, known):
    log = log_at()
    log.extend(envelopes(known, 1, 2, 3))
    shown(log, witness())
    other = log_at("other")
    other.extend(envelopes(known, 1, 2))
    refused(other, witness(), "seen 3 entries of root .* shown 2 ")
    assert witness().size == 3
    shown(log, witness())


def test_a_log_of_the_same_size_and_other_content_is_not_cosigned(log_at, witness, known):
    log, other = log_at(), log_at("other")
    log.extend(envelopes(known, 1, 2, 3))
    other.extend(envelopes(known, 1, 2, 4))
    shown(log, witness())
    refused(other, witness(), "seen 3 entries of root .* shown 3 ")


def test_a_rewritten_log_is_not_cosigned_whatever_the_proof(log_at, witness, known):
    log, other = log_at(), log_at("other")
    log.extend(envelopes(known, 1, 2, 3))
    other.extend(envelopes(known, 1, 9, 3, 4, 5))
    shown(log, witness())
    log.extend(envelopes(known, 4, 5))
    for proof in (None, [], log.consistency(3, 5), other.consistency(2, 5), [bytes(32)] * 3, [b""]):
        refused(other, witness(), "seen 3 entries of root .* shown 5 ", proof)
    shown(log, witness())


def test_another_log_or_signer_is_not_cosigned(log_at, witness, known):
    log = log_at()
    log.extend(envelopes(known, 1))
    stranger = log_at("stranger", signer=known.beta)
    elsewhere = log_at("elsewhere", origin="ledger.example/other")
    for other in (stranger, elsewhere):
        with pytest.raises(BadMessage):
            shown(other, witness())
    assert witness().size == 0


def test_a_first_checkpoint_takes_no_proof(log_at, witness, known):
    log = log_at()
    log.extend(envelopes(known, 1))
    with pytest.raises(BadMessage, match="no proof"):
        witness().cosign(log.checkpoint().to_bytes(), [bytes(32)])


def test_what_was_seen_is_on_disk_before_the_cosignature_is_made(log_at, known, tmp_path):
    log = log_at()
    log.extend(envelopes(known, 1))
    path, kept = tmp_path / "witness.note", []

    class Watched:
        public_key = known.alpha.public_key

        def sign(self, message):
            kept.append(path.read_bytes())
            return known.alpha.sign(message)

    shown(log, Witness(path, log=log.key, signer=Watched()))
    assert kept == [log.checkpoint().to_bytes()]


def test_a_witness_that_cannot_remember_does_not_cosign(log_at, known, tmp_path):
    log = log_at()
    log.extend(envelopes(known, 1))
    watcher = Witness(tmp_path / "new" / "witness.note", log=log.key, signer=known.alpha)
    (tmp_path / "new").write_text("")
    with pytest.raises(UsageError):
        watcher.cosign(log.checkpoint().to_bytes(), [])


@pytest.mark.parametrize("content", [b"", b"nothing", "origin\n0\n\n— a AAAAAAAA\n".encode()])
def test_a_damaged_memory_is_an_error_and_not_a_new_beginning(witness, tmp_path, content):
    (tmp_path / "witness.note").write_bytes(content)
    with pytest.raises(DataError, match="not the last checkpoint seen of this log"):
        witness()


def test_a_split_log_never_finds_two_quorums(log_at, known, tmp_path):
    # Seven parties, quorum floor(2 * 7 / 3) + 1 = 5. The server shows one log to some and another to the others.
    log, other = log_at(), log_at("other")
    log.extend(envelopes(known, 1, 2))
    other.extend(envelopes(known, 1, 3))
    identities = [new_identity() for _ in range(7)]
    witnesses = [Witness(tmp_path / f"{n}", log=log.key, signer=who) for n, who in enumerate(identities)]
    keys = tuple(witness_key(who.public_key) for who in identities)
    for split in range(8):
        for n, each in enumerate(witnesses):
            each._path.unlink(missing_ok=True)
            witnesses[n] = Witness(each._path, log=log.key, signer=identities[n])
        faces = {"log": log.checkpoint(), "other": other.checkpoint()}
        for n, each in enumerate(witnesses):
            for name, face in (("log", log), ("other", other)) if n < split else (("other", other), ("log", log)):
                try:
                    faces[name] = faces[name].with_line(shown(face, each))
                except Refusal:
                    continue
        assert sum(len(note.cosigned(keys)) >= 5 for note in faces.values()) <= 1
