"""Entries: every kind is read back as written, and what is not exactly one is refused without being repeated."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import canonical
from fedmarket.ledger.entries import KINDS, Entry, Head, commitment, moment, read_entry
from fedmarket.ledger.planned import planned
from fedmarket.privacy.mechanism import Grid, Mechanism
from fedmarket.privacy.plan import PrivacyPlan

HEAD = {"party": "Alpha Bank", "sequence": 3, "previous": "c" * 64, "time": "2026-01-31T12:00:00Z"}


@pytest.fixture
def document(known):
    """The whole object of an entry of some kind, with any key changed."""

    def made(kind, /, **changed):
        whole = {"format": "fedmarket-ledger/1", **HEAD, "kind": kind, **known.documents[kind]}
        return whole | changed

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_back_as_it_was_written(say, kind):
    entry = Entry(head=Head(**HEAD), statement=say(kind))
    assert read_entry(entry.payload()) == entry
    assert json.loads(entry.payload())["kind"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_needed_and_no_other_is_taken(document, kind):
    whole = document(kind)
    read_entry(canonical(whole))
    for key in whole:
        with pytest.raises(BadMessage):
            read_entry(canonical({name: value for name, value in whole.items() if name != key}))
    with pytest.raises(BadMessage, match="unknown key"):
        read_entry(canonical(whole | {"extra": 1}))


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_is_frozen(say, kind):
    with pytest.raises(ValidationError, match="frozen"):
        say(kind).kind = "opened"


def test_a_head_cannot_be_mistaken_for_a_statement():
    assert not [kind for kind, model in KINDS.items() if set(Head.model_fields) & set(model.model_fields)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "fedmarket-ledger/2"),
        ("kind", "reset"),
        ("kind", 1),
        ("party", ""),
        ("party", "a\nb"),
        ("party", "a\tb"),
        ("party", " Alpha"),
        ("party", "Alpha\u202eknaB"),
        ("party", "Alpha\u200bBank"),
        ("party", "A\u0308lpha"),
        ("party", "A" * 65),
        ("party", "Ä" * 33),
        ("sequence", -1),
        ("sequence", 2**48),
        ("sequence", "3"),
        ("sequence", True),
        ("previous", "C" * 64),
        ("previous", "c" * 63),
        ("previous", "c" * 64 + "\n"),
        ("time", "2026-01-31 12:00:00Z"),
        ("time", "2026-01-31T12:00:00+00:00"),
        ("time", "2026-01-31T12:00:00.5Z"),
        ("time", "2026-02-30T12:00:00Z"),
        ("time", "2026-01-31T12:00:00z"),
        ("run", "1" * 31),
        ("run", "G" * 32),
        ("round", -1),
        ("round", 2**32),
        ("phase", "training"),
        ("count", 0),
        ("cap", 8),
        ("cap", "8"),
        ("cap", "0.0"),
        ("cap", "-1.0"),
        ("cap", "inf"),
        ("cap", "8.00"),
        ("figures", []),
        ("figures", {}),
        ("figures", [{"accountant": "rdp", "version": "1", "epsilon": "1.0"}]),
        ("figures", [{"accountant": "pld", "version": "1", "epsilon": "nan"}]),
        ("figures", [{"accountant": "pld", "version": "1", "epsilon": "1.0", "x": 1}]),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line_that_does_not_repeat_it(document, key, value):
    with pytest.raises(BadMessage) as caught:
        read_entry(canonical(document("reserved", **{key: value})))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 160
    assert not (isinstance(value, str) and len(value) > 6 and value in said)


@pytest.mark.parametrize("document", [None, [], "opened", 1, {}, {"kind": None}, {"kind": ["opened"]}])
def test_what_is_no_entry_is_refused(document):
    with pytest.raises(BadMessage, match="an entry is an object with a kind"):
        read_entry(canonical(document))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample_rate": "0.5"}, "sampling is all-rows exactly where"),
        ({"sampling": "poisson"}, "sampling is all-rows exactly where"),
        ({"sampling": "shuffled"}, "sampling"),
        ({"sample_rate": "0.0"}, "sample_rate"),
        ({"sample_rate": "1.5"}, "sample_rate"),
        ({"noise_multiplier": "0.0"}, "noise_multiplier"),
        ({"clip_norm": "inf"}, "clip_norm"),
        ({"releases": 0}, "releases"),
        ({"length": 0}, "length"),
        ({"grid": {"resolution": "0.001", "shares": 4, "slack": "0.0"}}, "minimum_survivors less assumed_colluders"),
        ({"grid": {"resolution": "0.0", "shares": 3, "slack": "0.0"}}, "grid.resolution"),
    ],
)
def test_a_plan_that_could_not_be_accounted_is_refused(document, known, changed, said):
    plan = known.plan(known.mechanism(**changed))
    with pytest.raises(BadMessage, match=said):
        read_entry(canonical(document("joined", plan=plan)))


def test_all_mechanisms_share_noise_or_none_does(document, known):
    grid = {"resolution": "0.001", "shares": 3, "slack": "0.0"}
    shared, alone = known.mechanism("update", grid=grid), known.mechanism("centre")
    read_entry(canonical(document("joined", plan=known.plan(shared))))
    with pytest.raises(BadMessage, match="for all phases or none"):
        read_entry(canonical(document("joined", plan=known.plan(shared, alone))))
    with pytest.raises(BadMessage, match="one mechanism for a phase"):
        read_entry(canonical(document("joined", plan=known.plan(alone, alone))))


def private_plan(*mechanisms):
    return PrivacyPlan(
        unit="row", adjacency="add-or-remove-one", delta=1e-5, generator="operating-system", mechanisms=mechanisms
    )


@pytest.mark.parametrize("grid", [None, Grid(resolution=2.0**-20, shares=3, slack=1.1e-6)])
def test_a_plan_is_read_back_as_the_mechanisms_that_were_drawn_from(grid):
    centre = Mechanism(phase="centre", clip_norm=3.0, noise_multiplier=17.5, sample_rate=1.0, releases=1, length=9)
    update = replace(centre, phase="update", clip_norm=0.1, noise_multiplier=1.1, sample_rate=0.03, releases=70)
    mechanisms = (replace(centre, grid=grid), replace(update, grid=grid))
    written = planned(private_plan(*mechanisms), assumed_colluders=1, minimum_survivors=4)
    assert tuple(found.mechanism() for found in written.mechanisms) == mechanisms
    assert [found.sampling for found in written.mechanisms] == ["all-rows", "poisson"]


@pytest.mark.parametrize("changed", [{"noise_multiplier": 0.0}, {"clip_norm": float("inf")}])
def test_a_plan_without_protection_is_never_written(changed):
    fields = {"phase": "update", "clip_norm": 1.0, "noise_multiplier": 1.0, "sample_rate": 1.0, "releases": 1}
    bare = Mechanism(**fields | changed, length=1)
    with pytest.raises(BadMessage):
        planned(private_plan(bare), assumed_colluders=1, minimum_survivors=4)


def test_a_commitment_depends_on_salt_rows_and_split(known):
    salt = bytes(16)
    found = {
        commitment(known.A, known.B, salt=salt),
        commitment(known.B, known.A, salt=salt),
        commitment(known.A, salt=salt),
        commitment(known.A, known.B, salt=b"\1" * 16),
        commitment(known.A, known.B, salt=bytes(17)),
    }
    assert len(found) == 5
    with pytest.raises(BadMessage, match="salt of 16 bytes"):
        commitment(known.A, salt=bytes(15))


def test_time_is_written_in_utc():
    eastern = datetime(2026, 1, 31, 13, 30, 59, 999, tzinfo=timezone(timedelta(hours=1)))
    assert moment(eastern) == "2026-01-31T12:30:59Z"
    assert moment(datetime(2026, 1, 31, tzinfo=UTC)) == "2026-01-31T00:00:00Z"
