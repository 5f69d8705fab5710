"""A bad experiment ends in one line that names file, key or column, with its exit code, before anything is written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from fedmarket.config import load_config
from fedmarket.errors import DataError

WORD = "Quxville"
ROOT = Path(__file__).parents[2]

CONFIG_ERRORS = {
    "epsilon zero": ("epsilon = 1.0", "epsilon = 0", "privacy.epsilon: Input should be greater than or equal to 0.02"),
    "epsilon negative": (
        "epsilon = 1.0",
        "epsilon = -1",
        "privacy.epsilon: Input should be greater than or equal to 0.02",
    ),
    "epsilon that no accountant can certify": ("epsilon = 1.0", "epsilon = 0.01", "greater than or equal to 0.02"),
    "epsilon that promises nothing": ("epsilon = 1.0", "epsilon = 100", "less than or equal to 32"),
    "epsilon nan": ("epsilon = 1.0", "epsilon = nan", "privacy.epsilon"),
    "epsilon infinite": ("epsilon = 1.0", "epsilon = inf", "privacy.epsilon: Input should be a finite number"),
    "epsilon a word": ("epsilon = 1.0", 'epsilon = "one"', "privacy.epsilon"),
    "epsilon true": ("epsilon = 1.0", "epsilon = true", "privacy.epsilon"),
    "unknown key": ("epsilon = 1.0", "epsilon = 1.0\nepsilonn = 1.0", "privacy.epsilonn: unknown key"),
    "unknown key, with those that are known": (
        "epsilon = 1.0",
        "epsilon = 1.0\nepsilonn = 1.0",
        "expected one of calibration_rounds, calibration_share, centre_share, clip_norm, colluders, epsilon, generator",
    ),
    "unknown key of one kind": (
        'kind = "file"',
        'kind = "file"\nsize = 3',
        "data.source.file.size: unknown key; expected one of kind, partition, path",
    ),
    "unknown section": ("[privacy]", "[secrets]\na = 1\n[privacy]", "secrets: unknown key"),
    "missing key": ("clip_norm = 1.0", "", "privacy.clip_norm: missing"),
    "clip zero": ("clip_norm = 1.0", "clip_norm = 0.0", "privacy.clip_norm"),
    "rate above one": ("sample_rate = 1.0", "sample_rate = 1.5", "privacy.sample_rate"),
    "rate zero": ("sample_rate = 1.0", "sample_rate = 0", "privacy.sample_rate"),
    "noise of another kind": ('noise = "local"', 'noise = "central"', "privacy.noise: Input should be 'local'"),
    "no colluder": ("colluders = 1", "colluders = 0", "privacy.colluders"),
    "half an evaluation": ("private_evaluation = true", "private_evaluation = 1", "privacy.private_evaluation"),
    "a walk backwards": ("noise_walk = 0.17", "noise_walk = -0.1", "training.noise_walk"),
    "no row norm": ("row_norm = 3.5", "row_norm = 1.0", "scaling.row_norm"),
    "an exponent above one": ("exponent = 0.35", "exponent = 1.5", "scaling.exponent"),
    "shares": (
        "centre_share = 0.05",
        "centre_share = 0.96",
        "privacy: centre_share, calibration_share and the shares of value must add up to below 1",
    ),
    "generator": ("seeded-for-tests", "mersenne-twister", "privacy.generator"),
    "no seed": ("seeds = [0]", "seeds = []", "seeds"),
    "a seed twice": ("seeds = [0]", "seeds = [1, 1]", "a seed is used twice"),
    "a negative seed": ("seeds = [0]", "seeds = [-1]", "seeds.0"),
    "a seed beyond 32 bits": ("seeds = [0]", "seeds = [4294967296]", "seeds.0"),
    "half a worker": ("workers = 1", "workers = 0.5", "workers"),
    "no rounds": ("rounds = 3", "rounds = 0", "training.rounds"),
    "test share": ("test_share = 0.2", "test_share = 1.0", "data.test_share"),
    "model": ('kind = "logistic"', 'kind = "forest"', "model: Input tag 'forest'"),
    "modulus": ("modulus_bits = 32", "modulus_bits = 16", "aggregation.modulus_bits"),
    "partition": ('{ kind = "column", column = "company" }', '{ kind = "magic" }', "data.source.file.partition"),
    "not TOML": ("workers = 1", "workers = = 1", "not a TOML document"),
    "no contract": ("contract.toml", "none.toml", "none.toml: cannot be read (No such file or directory)"),
    "capacity": ("max_party_rows = 2000", "max_party_rows = 20", "federation.max_party_rows = 20"),
    "parties": ("max_parties = 8", "max_parties = 1", "federation.max_parties: the data has 4 parties, got 1"),
    "more survivors than parties": (
        "minimum_survivors = 3",
        "minimum_survivors = 5",
        "federation.minimum_survivors: the data has 4 parties, got 5",
    ),
    "fewer survivors than the contract allows": (
        "minimum_survivors = 3",
        "minimum_survivors = 1",
        "federation.minimum_survivors: contract shop needs at least 2 parties in a sum, got 1",
    ),
    "fewer survivors than secure aggregation allows": (
        "minimum_survivors = 3",
        "minimum_survivors = 2",
        "(minimum_survivors: expected 3 (the threshold) to 4, got 2); change that, or sum in the open with aggregation",
    ),
    "no survivors": ("minimum_survivors = 3", "minimum_survivors = 0", "federation.minimum_survivors"),
    "no void round": ("max_void_rounds = 3", "max_void_rounds = 0", "federation.max_void_rounds"),
    "no time to reply": ("reply_timeout_seconds = 60.0", "reply_timeout_seconds = 0.0", "federation.reply_timeout"),
    "no time to train": ("training_timeout_seconds = 60.0", "training_timeout_seconds = inf", "training_timeout"),
    "another kind of sum": ('secagg = "secure"', 'secagg = "trusted"', "aggregation.secagg: Input should be 'secure'"),
}


@pytest.mark.parametrize("name", CONFIG_ERRORS)
def test_a_wrong_key_is_named_and_exits_with_2(fedmarket: Callable, shop, no_training, name: str):
    old, new, said = CONFIG_ERRORS[name]
    shop.replace(shop.config, old, new)
    ran = fedmarket("simulate", shop.config)
    assert said in ran.error
    assert ran.code == 2
    assert not (shop.folder / "out").exists()


CONTRACT_ERRORS = {
    "delta zero": ("delta = 1e-5", "delta = 0", "privacy.delta"),
    "no delta": ("delta = 1e-5", "", "privacy.delta: missing"),
    "no adjacency": ('adjacency = "add-or-remove-one"', "", "privacy.adjacency: missing"),
    "no minimum": ("minimum_parties = 2", "", "minimum_parties: missing"),
    "bounds": ("lower = 0", "lower = 9999", "lower must be below upper in column 'spend'"),
    "no weight": ("upper = 5000", "upper = 5000\nweight = 0", "weight: Input should be greater than 0"),
    "a heavy weight": ("upper = 5000", "upper = 5000\nweight = 11", "weight: Input should be less than or equal to 10"),
    "label as a feature": ('name = "town"', 'name = "bought"', "the label column 'bought' must not be a feature"),
    "more parties than there are": (
        "minimum_parties = 2",
        "minimum_parties = 5",
        "federation.minimum_survivors: contract shop needs at least 5 parties in a sum, got 3",
    ),
}


@pytest.mark.parametrize("name", CONTRACT_ERRORS)
def test_a_wrong_contract_is_named_and_exits_with_2(fedmarket: Callable, shop, no_training, name: str):
    old, new, said = CONTRACT_ERRORS[name]
    shop.replace(shop.contract, old, new)
    ran = fedmarket("simulate", shop.config)
    assert said in ran.error
    assert ran.code == 2


def test_sampling_under_replacement_is_refused(fedmarket: Callable, shop, no_training):
    shop.replace(shop.contract, "add-or-remove-one", "replace-one")
    ran = fedmarket("simulate", shop.config, "--set", "privacy.sample_rate=0.5")
    assert "privacy.sample_rate: expected 1 under the contract's adjacency replace-one" in ran.error
    assert ran.code == 2


SHARED = ("--set", "privacy.noise=distributed")


@pytest.mark.parametrize("colluders", [3, 4, 100])
def test_colluders_who_leave_no_noise_are_refused_where_it_is_shared(fedmarket, shop, no_training, colluders: int):
    words = ("--set", f"privacy.colluders={colluders}")
    ran = fedmarket("simulate", shop.config, *SHARED, *words)
    assert ran.error.endswith(
        "privacy.colluders must be below federation.minimum_survivors: nobody's noise would be left"
    )
    assert ran.code == 2
    assert not (shop.folder / "out").exists()
    with pytest.raises(AssertionError, match="a round was opened"):
        fedmarket("simulate", shop.config, *words)


def test_several_local_steps_are_refused_where_noise_is_shared(fedmarket: Callable, shop, no_training):
    words = ("--set", "training.local_steps=2")
    ran = fedmarket("simulate", shop.config, *SHARED, *words)
    assert ran.error.startswith("local_steps of a private schedule: expected 1 with distributed noise, got 2 (")
    assert ran.code == 2
    assert not (shop.folder / "out").exists()
    with pytest.raises(AssertionError, match="a round was opened"):
        fedmarket("simulate", shop.config, *words)


def test_an_experiment_with_shared_noise_ends_with_its_files(fedmarket: Callable, write_market, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    ran = fedmarket("simulate", write_market(tmp_path), *SHARED)
    assert ran.code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (results["plan"]["noise"], results["plan"]["shares"]) == ("distributed", 2)
    assert all(0.97 < spent["epsilon"] <= 1.0 for spent in results["privacy"].values())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Who looks" in page
    assert "another party, which knows its own share of the noise" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("privacy.epsilon", "--set privacy.epsilon: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("nope.epsilon=3", "--set nope.epsilon: no section 'nope'"),
        ("privacy.nope=3", "--set privacy.nope: no such key; expected one of"),
        ("privacy.epsilon.low=3", "--set privacy.epsilon.low: no section 'epsilon'"),
        ("privacy=3", "privacy: "),
        ("privacy.epsilon=", "privacy.epsilon: Input should be a valid number"),
        ("privacy.epsilon=0", "privacy.epsilon: Input should be greater than or equal to 0.02"),
        ("seeds=0", "seeds: "),
        ("workers=1\nname=x", "--set 'workers=1\\nname=x': expected KEY=VALUE in one line of UTF-8"),
        ("name=\udcff", "--set 'name=\\udcff': expected KEY=VALUE in one line of UTF-8"),
        (f"workers={'9' * 5000}", "workers: Input should be a valid integer"),
        (f"workers={'[' * 5000}", "workers: Input should be a valid integer"),
    ],
)
def test_a_wrong_change_is_named_and_exits_with_2(fedmarket: Callable, shop, no_training, change: str, said: str):
    ran = fedmarket("simulate", shop.config, "--set", change)
    assert said in ran.error
    assert ran.code == 2


@pytest.mark.parametrize(("name", "content"), [("none.toml", None), ("folder", None), ("latin.toml", b"name = '\xe9'")])
def test_a_config_that_cannot_be_read_is_named_and_exits_with_2(fedmarket: Callable, tmp_path, name: str, content):
    (tmp_path / "folder").mkdir()
    if content:
        (tmp_path / name).write_bytes(content)
    ran = fedmarket("simulate", tmp_path / name)
    assert ran.error.startswith(f"{tmp_path / name}: ")
    assert ran.code == 2


def cells(column: str, *values: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Put ``values`` into the first rows of ``column``."""
    return lambda table: table.with_columns(pl.Series(column, [*values, *table[column].to_list()[len(values) :]]))


DATA_ERRORS = {
    "no partition column": (lambda t: t.drop("company"), "partition column 'company': missing"),
    "a row of no party": (cells("company", "", ""), "partition column 'company': expected a party in each row, 2"),
    "no column": (lambda t: t.drop("spend"), "column 'spend': missing"),
    "words for numbers": (cells("spend", WORD, "1234,5678"), "column 'spend': expected numbers, 2 values are not"),
    "out of bounds": (cells("spend", "12345678", "-1234"), "column 'spend': 2 values outside the bounds 0 to 5000"),
    "not a number": (cells("spend", "NaN"), "column 'spend': 1 values are NaN"),
    "infinite": (cells("spend", "inf", "-inf"), "column 'spend': 2 values are infinite"),
    "missing throughout": (lambda t: t.with_columns(spend=pl.lit("")), "column 'spend': all 200 values are missing"),
    "closed vocabulary": (cells("town", WORD), "column 'town': 1 values outside the closed vocabulary of 2 words"),
    "another label": (cells("bought", WORD), "label column 'bought': 1 values are neither 'yes' nor 'no'"),
    "no label": (lambda t: t.drop("bought"), "label column 'bought': missing"),
    "one class": (lambda t: t.with_columns(bought=pl.lit("no")), "only one class (no positive among 200 rows)"),
    "no rows": (lambda t: t.head(0), "empty table: expected at least one row, got 0"),
    "a small party": (cells("company", *["tiny"] * 22), "party 'tiny': expected 20 training rows or more, got 18"),
    "a party of one class": (
        lambda t: t.with_columns(
            bought=pl.when(pl.col("company") == "company-0").then(pl.lit("no")).otherwise("bought")
        ),
        "party 'company-0': expected both classes in training, got 0 of 40 positive",
    ),
}


@pytest.mark.parametrize("name", DATA_ERRORS)
def test_bad_data_is_named_without_a_cell_and_exits_with_1(fedmarket: Callable, shop, no_training, name: str):
    change, said = DATA_ERRORS[name]
    change(shop.table()).write_csv(shop.csv)
    ran = fedmarket("simulate", shop.config)
    assert said in ran.error
    assert ran.code == 1
    assert not (shop.folder / "out").exists()


def test_too_few_parties_for_secure_aggregation_are_told_the_way_out(fedmarket: Callable, shop, no_training):
    shop.table().with_columns(pl.col("company").replace("company-3", "company-2")).write_csv(shop.csv)
    ran = fedmarket("simulate", shop.config)
    assert ran.error.startswith("aggregation.secagg: secure aggregation is not possible here (")
    assert "secure aggregation needs 4 to 100 members, got 3" in ran.error
    assert ran.error.endswith("; change that, or sum in the open with aggregation.secagg=ideal")
    assert ran.code == 2
    assert not (shop.folder / "out").exists()
    with pytest.raises(AssertionError, match="a round was opened"):
        fedmarket("simulate", shop.config, "--set", "aggregation.secagg=ideal")


def test_a_delta_that_would_allow_to_publish_a_row_exits_with_1(fedmarket: Callable, shop, no_training):
    shop.replace(shop.contract, "delta = 1e-5", "delta = 0.005")
    ran = fedmarket("simulate", shop.config)
    assert "shop.csv: privacy.delta 0.005 must be below 1/rows (200 rows)" in ran.error
    assert ran.code == 1


FILES = {
    "shop.csv": (b"company,spend\n1234.5678\n", "expected 2 fields in each row"),
    "empty.csv": (b"", "the file is empty"),
    "latin.csv": ("company,spend\n1234.5678,\xe9\n".encode("latin1"), "expected UTF-8 text"),
    "cut.csv.gz": (gzip.compress(b"company,spend\n1234.5678,1\n" * 99)[:-9], "not a whole gzip file"),
    "cut.parquet": (b"PAR1" + b"1234.5678" * 99, "not a whole parquet file"),
    "shop.xlsx": (b"PK", "unknown kind of file"),
    "none.csv": (None, "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_is_named_and_exits_with_1(fedmarket: Callable, shop, no_training, name: str):
    content, said = FILES[name]
    if content is not None:
        (shop.folder / name).write_bytes(content)
    ran = fedmarket("simulate", shop.config, "--set", f"data.source.path={name}")
    assert f"{shop.folder / name}: {said}" in ran.error
    assert ran.code == 1


def test_a_public_file_of_another_hash_is_named_and_exits_with_1(fedmarket, write_market, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMARKET_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bank-additional-full.csv").write_text("age\n1234.5678\n")
    source = 'kind = "public"\nname = "bank-additional"\npartition = { kind = "column", column = "job" }'
    path = write_market(tmp_path, ('kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7', source))
    ran = fedmarket("simulate", path)
    assert "bank-additional-full.csv: expected SHA-256" in ran.error
    assert ran.code == 1


def test_an_unknown_public_set_is_named_and_exits_with_2(fedmarket, write_market, tmp_path):
    source = 'kind = "public"\nname = "nope"\npartition = { kind = "iid", parties = 2 }'
    path = write_market(tmp_path, ('kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7', source))
    ran = fedmarket("simulate", path)
    assert "public data set 'nope': unknown" in ran.error
    assert ran.code == 2


def test_an_output_that_cannot_be_written_exits_with_2(fedmarket: Callable, shop, no_training):
    (shop.folder / "file").write_text("mine")
    ran = fedmarket("simulate", shop.config, "--output", shop.folder / "file")
    assert "file: cannot be written" in ran.error
    assert ran.code == 2
    assert (shop.folder / "file").read_text() == "mine"


@pytest.mark.parametrize("folder", ["plain", "it's", 'a "b"', "结果", "\N{BAR CHART}", "back\\slash", "two words"])
def test_the_output_folder_may_have_any_name(fedmarket: Callable, shop, monkeypatch, folder: str):
    seen: list[object] = []

    def look(config, *, changes, **_):
        seen.append(load_config(config, changes=changes).output)
        raise DataError("enough")

    monkeypatch.setattr("fedmarket.simulation.run.simulate", look)
    assert fedmarket("simulate", shop.config, "--output", shop.folder / folder).error == "enough"
    assert seen == [str(shop.folder / folder)]


def test_an_experiment_ends_with_a_summary_and_its_files(fedmarket: Callable, shop, monkeypatch):
    monkeypatch.chdir(shop.folder)
    # The apps are looked for beside the config: here they are copies of the project's.
    (shop.folder / "pyproject.toml").write_text(
        '[tool.flwr.app.components]\nserverapp = "server:app"\nclientapp = "client:app"\n'
    )
    for name, folder in (("server", "server"), ("client", "clients")):
        (shop.folder / f"{name}.py").write_text((ROOT / folder / "app.py").read_text())
    ran = fedmarket("simulate", "config.toml", "--set", "privacy.epsilon=2", "--output", "results")
    assert ran.code == 0
    ran.tells_no_cell()
    for name in ("report.html", "results.json", "model.safetensors"):
        assert f"  results/{name}\n" in ran.out
    assert "seed 0: 100%" in ran.err
    results = json.loads((shop.folder / "results" / "results.json").read_text())
    assert results["plan"]["target_epsilon"] == 2
    assert results["federation"]["secagg"] == "secure"
    told = (shop.folder / "results" / "report.html").read_text() + json.dumps(results)
    assert "1234.5678" not in told
