"""What the fuzzer of ``fuzz_decoders.py`` found, and what was found beside it, once each."""

import io
import json
import math
import runpy
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedmarket.errors import BadMessage, ConfigError, DataError
from fedmarket.federation.roster import LARGEST_ROSTER, Member, load_roster, new_roster
from fedmarket.ledger import checkpoints, reading
from fedmarket.ledger import verify as module
from fedmarket.ledger.bundle import MOST_CHECKPOINTS, Manifest, read_bundle
from fedmarket.ledger.canonical import canonical, decimal
from fedmarket.ledger.envelope import read_envelope, seal
from fedmarket.ledger.replay import MOST_DATA_SETS
from fedmarket.privacy import accountant
from fedmarket.privacy.accountant import gaussian_epsilon

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
    made, witness_key = Counter(), checkpoints.witness_key
    monkeypatch.setattr(checkpoints, "witness_key", lambda key: made.update([key]) or witness_key(key))
    assert module.verify(market.bundle()).good
    assert made[identity_of("new 5").public_key] <= 3


def plan_with(**update):
    """Return the plan of a sampled or full run whose updates are changed."""
    kind = "own" if update.get("sample_rate") == 1.0 else "sampled"
    plan = MADE["plan_of"](kind=kind, rounds=update.pop("rounds", 1))
    changed = [replace(each, **update) if each.phase == "update" else each for each in plan.mechanisms]
    return replace(plan, mechanisms=tuple(changed))


def reserved(*plans, figure="1.0", cap="1000000.0", phase="update"):
    """Return a market where a release of each plan was reserved, with made-up figures."""
    market = MADE["Market"](cap=cap)
    figures = [{"accountant": "pld", "version": "1", "epsilon": figure}]
    market.opened()
    for number, plan in enumerate(plans):
        market.plan, run = plan, f"{number:032x}"
        market.joined(run)
        market.all(
            "reserved", run=run, round=0, phase=phase, count=1, figures=figures, cap=cap
        )  # fmt: skip
        market.all("committed", run=run, round=0, model_hash="a" * 64, content_hash="b" * 64)
    return market.logged()


@pytest.mark.parametrize("rate", [0.1, 1e-300, 1.0])
@pytest.mark.parametrize("noise", [1e200, 1.7976931348623157e308, 1e8, 0.19, 5e-324])
def test_noise_beyond_all_bounds_has_a_verdict_that_says_so_in_one_line(noise, rate):
    verdict = module.verify(reserved(plan_with(noise_multiplier=noise, sample_rate=rate)).bundle())
    found = [str(one) for one in verdict.findings if "a noise multiplier of" in one.found]
    assert len(found) == (0 if (noise, rate) == (0.19, 1.0) else 4)
    assert all(line.isprintable() and "to be accounted" in line for line in found)
    json.dumps(verdict.to_document(), allow_nan=False)


@pytest.mark.parametrize("noise", [0.1, 0.19, 1e-300, 1e200])
def test_without_sampling_any_noise_has_an_epsilon_by_the_exact_formula(noise):
    (run,) = module.verify(reserved(plan_with(noise_multiplier=noise, sample_rate=1.0)).bundle()).runs
    exact = max(gaussian_epsilon(math.hypot(1 / noise, 1 / 9), 1e-5), gaussian_epsilon(1 / 4, 1e-5))
    assert [epsilon for _, _, epsilon in run.observers] == pytest.approx([exact] * 5, rel=1e-9)
    sampled = module.verify(reserved(plan_with(noise_multiplier=noise, sample_rate=0.1)).bundle())
    assert sampled.parties[0].data[0].unsampled == pytest.approx(gaussian_epsilon(1 / noise, 1e-5), rel=1e-9)


def test_all_full_batches_of_a_ledger_are_one_gaussian_to_privacy_loss_distributions(monkeypatch):
    made = Counter()
    whole = accountant.from_gaussian_mechanism
    monkeypatch.setattr(
        accountant, "from_gaussian_mechanism", lambda noise, **keys: made.update(["made"]) or whole(noise, **keys)
    )
    accountant._loss.cache_clear()
    plans = [plan_with(noise_multiplier=30.0 + number, sample_rate=1.0) for number in range(20)]
    (account, *_) = module.verify(reserved(*plans).bundle()).parties
    exact = gaussian_epsilon(math.sqrt(sum((30.0 + number) ** -2 for number in range(20))), 1e-5)
    assert account.data[0].accountants["pld"] == pytest.approx(exact, abs=1e-6)
    assert made["made"] <= 20 + 1  # once for each reservation, whose figure is not the exact formula's, and never more


def test_epsilon_against_observers_takes_no_privacy_loss_distribution(monkeypatch):
    monkeypatch.setattr(accountant, "pld_epsilon", None)
    market = MADE["Market"]().opened()
    for number, kind in enumerate(("own", "shared", "sampled")):
        market.plan = MADE["plan_of"](kind=kind)
        market.joined(f"{number:032x}")
    for run in module.verify(market.bundle()).runs:
        assert all(0 < epsilon < 10 for _, _, epsilon in run.observers)


def test_sampled_mechanisms_beyond_what_is_accounted_are_a_finding_and_no_epsilon(monkeypatch):
    monkeypatch.setattr(reading, "MOST_SAMPLED", 2)
    plans = [plan_with(noise_multiplier=noise) for noise in (2.0, 2.5, 3.0, 2.5)]
    verdict = module.verify(reserved(*plans).bundle())
    found = [str(one) for one in verdict.findings if one.party == "Alpha Bank"]
    assert sum("different sampled mechanisms: expected at most 2, found more" in line for line in found) == 1
    assert sum("different sampled mechanisms are not accounted" in line for line in found) == 2  # from the third on
    least = [min(epsilon for _, _, epsilon in run.observers) for run in verdict.runs]
    assert [epsilon == math.inf for epsilon in least] == [False, False, True, False]
    assert verdict.parties[0].epsilon == math.inf


def test_what_only_the_second_accountant_refuses_is_a_finding_too(monkeypatch):
    plan = plan_with(noise_multiplier=3.0)
    figure = decimal(plan.spent({"update": 1}).accountants["pld"])
    market = reserved(plan, figure=figure)
    assert module.verify(market.bundle()).good
    monkeypatch.setattr(accountant, "FINEST_GRID", 10)
    accountant.prv_epsilon.cache_clear()
    found = [str(one) for one in module.verify(market.bundle()).findings]
    assert len(found) == 4
    assert all("epsilon of data set" in line and "a grid of more than 10 points" in line for line in found)


def test_of_many_data_sets_the_one_in_use_and_the_dearest_have_both_figures():
    market = MADE["Market"](cap="1000.0", plan=plan_with(noise_multiplier=6.0, sample_rate=1.0)).opened()
    market._figures_of = lambda *_: [{"accountant": "exact", "version": "1", "epsilon": "1.0"}]
    for number, uses in enumerate((1, 3, 2, 1)):
        run = f"{number:032x}"
        market.plan = plan_with(noise_multiplier=6.0, sample_rate=1.0, rounds=uses)
        market.joined(run)
        for place in range(uses):
            market.reserved(run, place, "update")
        for party in market.parties:
            party.say("data-replaced", old=party.state.data_set, new=f"{number:064x}", overlap=False, reason="new")
    (account, *_) = module.verify(market.logged().bundle()).parties
    assert sorted(len(data.accountants) for data in account.data) == [0, 1, 1, 1, 2]
    dearest = max(account.data, key=lambda data: data.epsilon)
    assert set(dearest.accountants) == {"exact", "pld"}
    assert account.epsilon == dearest.epsilon


def test_a_ledger_of_more_data_sets_than_its_lineage_may_grow_is_refused():
    market = MADE["Market"](names=("Alpha Bank",)).opened()
    (party,) = market.parties

    def replaced(number):
        new = f"{number:064x}"
        party.say("data-replaced", old=party.state.data_set, new=new, overlap=True, reason="another month")

    for number in range(MOST_DATA_SETS - 1):
        replaced(number)
    replaced(0)  # one that was there before is none more
    with pytest.raises(BadMessage, match="new: expected at most 256 data sets in a ledger"):
        replaced(MOST_DATA_SETS)
    assert len(party.state.lineage) == MOST_DATA_SETS


ROSTERS = {
    "digits": (f"threshold = {'9' * 5000}", "lines of at most 1024 bytes"),
    "hexadecimal": (f"threshold = 0x{'f' * 900}", "threshold: "),
    "deep": ("\n".join(["x = ["] + ["["] * 5000), "nested too deep"),
    "terminal": ('"a\\nb\\u001b[2J" = 1', r"a\nb\x1b[2J: unknown key"),
    "long key": (f'"{"k" * 900}" = 1', "kkk...: unknown key"),
    "long value": (f'format = "{"v" * 900}"', "got 'vvv"),
    "dotted": (".".join("a" * 20_000) + " = 1", "lines of at most 1024 bytes"),
    "large": ("# much\n" * LARGEST_ROSTER, "expected at most 65536 bytes"),
    "not text": ('format = "\udcff"', "not a TOML document"),
}


@pytest.mark.parametrize(("text", "why"), ROSTERS.values(), ids=ROSTERS)
def test_a_roster_that_nobody_could_mean_is_refused_in_one_short_line(tmp_path, text, why):
    path = tmp_path / "roster.toml"
    key = text.split(" = ")[0]
    other = [line for line in MADE["Market"]().roster.to_toml().split("\n") if not line.startswith(f"{key} = ")]
    whole = "\n".join([text, *other])
    path.write_bytes(whole.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_roster(path)
    said = str(caught.value).removeprefix(f"{path}: ")
    assert why in said
    assert said.isprintable()
    assert len(said) < 500


def test_a_roster_of_a_hundred_members_with_the_longest_names_is_read(tmp_path):
    path = tmp_path / "roster.toml"
    members = [Member(name=f"{number:04}{'é' * 30}", public_key=bytes([number] * 32)) for number in range(100)]
    path.write_text(new_roster(members).to_toml(), encoding="utf-8")
    assert path.stat().st_size < LARGEST_ROSTER / 3
    assert len(load_roster(path).members) == 100
