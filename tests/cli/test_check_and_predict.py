"""A table is held against its contract, and customers are scored, on one machine and without a cell in any message."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from fedmarket.config import LogisticModel
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import load_contract
from fedmarket.models.released import load_model, save_model
from fedmarket.models.state import ModelState

WORD = "Quxville"


@pytest.mark.parametrize("kind", ["csv", "parquet", "csv.gz"])
def test_a_clean_table_gets_a_profile_of_counts(fedmarket: Callable, shop, kind: str):
    table, path = shop.table().with_columns(note=pl.lit(WORD)), shop.folder / f"clean.{kind}"
    if kind == "parquet":
        table.with_columns(pl.col("spend").cast(pl.Float64)).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(table.write_csv().encode()) if kind == "csv.gz" else table.write_csv().encode())
    ran = fedmarket("check", "--contract", shop.contract, "--data", path)
    ran.tells_no_cell()
    assert (ran.code, ran.err) == (0, "")
    positives = shop.table()["bought"].to_list().count("yes")
    assert f"200 rows, {positives} positive" in ran.out
    assert "not in the contract and not read: company, note" in ran.out
    assert "keeps contract shop" in " ".join(ran.out.split())


def test_a_dirty_table_gets_every_broken_rule_and_exits_with_1(fedmarket: Callable, shop):
    table = shop.table().drop("bought")
    table = table.with_columns(
        pl.Series("spend", ["-12345678", "NaN", "inf", "1234,5678", *table["spend"].to_list()[4:]]),
        pl.Series("town", [WORD, *table["town"].to_list()[1:]]),
    )
    table.write_csv(shop.csv)
    ran = fedmarket("check", "--contract", shop.contract, "--data", shop.csv)
    ran.tells_no_cell()
    assert (ran.code, ran.out) == (1, "")
    rules = ran.err.splitlines()
    for rule in (
        "column 'spend': expected numbers, 1 values are not",
        "column 'spend': 1 values are NaN",
        "column 'spend': 1 values are infinite",
        "column 'spend': 1 values outside the bounds 0 to 5000",
        "column 'town': 1 values outside the closed vocabulary of 2 words",
        "label column 'bought': missing",
    ):
        assert any(line.strip().startswith(rule) for line in rules), rule


def test_the_profile_begins_with_one_line(fedmarket: Callable, shop):
    ran = fedmarket("check", "--contract", shop.contract, "--data", shop.csv)
    assert ran.out.startswith(f"{shop.csv} keeps contract ")
    assert ran.out.splitlines()[0].endswith(")")


def test_markup_in_names_stays_text(fedmarket: Callable, shop):
    shop.replace(shop.contract, 'name = "town"', 'name = "[red]town[/red]"')
    ran = fedmarket("check", "--contract", shop.contract, "--data", shop.csv)
    assert "column '[red]town[/red]': missing" in ran.err
    assert ran.code == 1


@pytest.mark.parametrize(
    ("contract", "data", "said", "code"),
    [
        ("none.toml", "shop.csv", "none.toml: cannot be read", 2),
        ("contract.toml", "none.csv", "none.csv: cannot be read", 1),
        ("contract.toml", "contract.toml", "unknown kind of file", 1),
        ("config.toml", "shop.csv", "config.toml: ", 2),
        ("shop.csv", "shop.csv", "shop.csv: not a TOML document", 2),
    ],
)
def test_check_names_the_file_that_cannot_be_used(fedmarket: Callable, shop, contract, data, said, code):
    ran = fedmarket("check", "--contract", shop.folder / contract, "--data", shop.folder / data)
    assert said in ran.error
    assert ran.code == code


@pytest.fixture
def model(shop) -> Path:
    contract = load_contract(shop.contract)
    width = layout_of(contract, binning=False).width
    parameters = pl.Series(range(1, width + 2)).to_numpy() / 10.0
    state = ModelState(
        centre=parameters[:-1] / 10,
        scale=parameters[1:],
        parameters=parameters,
        calibration=pl.Series([0.0, 1.0, 0.0]).to_numpy(),
    )
    path = shop.folder / "model.safetensors"
    save_model(path, state, model=LogisticModel(kind="logistic", binning=False), contract=contract, private=True)
    return path


def predict(fedmarket: Callable, shop, model: Path, *, data: str = "shop.csv", output: str = "scores.csv"):
    return fedmarket(
        "predict", "--model", model, "--contract", shop.contract, "--data", shop.folder / data,
        "--output", shop.folder / output,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_customer_gets_a_score_in_the_order_of_the_table(fedmarket: Callable, shop, model, kind: str):
    shop.table().drop("bought").write_csv(shop.csv)
    ran = predict(fedmarket, shop, model, output=f"deep/scores.{kind}")
    ran.tells_no_cell()
    assert (ran.code, ran.err) == (0, "")
    assert "200 customers scored" in ran.out
    path = shop.folder / "deep" / f"scores.{kind}"
    scores = pl.read_csv(path) if kind == "csv" else pl.read_parquet(path)
    assert scores.columns == ["row", "response_probability"]
    assert scores["row"].to_list() == list(range(1, 201))
    assert scores["response_probability"].is_between(0, 1, closed="none").all()
    assert scores["response_probability"].n_unique() > 50
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_scores_of_one_customer_do_not_depend_on_the_others(fedmarket: Callable, shop, model):
    predict(fedmarket, shop, model)
    everyone = pl.read_csv(shop.folder / "scores.csv")["response_probability"].to_list()
    shop.table().tail(1).write_csv(shop.csv)
    predict(fedmarket, shop, model)
    assert pl.read_csv(shop.folder / "scores.csv")["response_probability"].to_list() == pytest.approx(everyone[-1:])


def test_a_customer_column_names_the_scores(fedmarket: Callable, shop):
    shop.replace(shop.contract, 'unit = "row"', 'unit = "column:company"')
    contract = load_contract(shop.contract)
    width = layout_of(contract, binning=False).width
    zeros = pl.Series([0.0] * (width + 1)).to_numpy()
    state = ModelState(centre=zeros[:-1], scale=zeros[:-1], parameters=zeros, calibration=zeros[:3])
    path = shop.folder / "m.safetensors"
    save_model(path, state, model=LogisticModel(kind="logistic", binning=False), contract=contract, private=True)
    assert predict(fedmarket, shop, path).code == 0
    assert pl.read_csv(shop.folder / "scores.csv").columns == ["company", "response_probability"]


def other_contract(shop, model: Path) -> str:
    shop.replace(shop.contract, "upper = 5000", "upper = 6000")
    return "trained under contract"


def truncated(shop, model: Path) -> str:
    model.write_bytes(model.read_bytes()[:-40])
    return "model.safetensors: expected a fedmarket-model/1 file, found something truncated or different"


def foreign(shop, model: Path) -> str:
    model.write_bytes(b"1234.5678")
    return "model.safetensors: expected a fedmarket-model/1 file"


def absent(shop, model: Path) -> str:
    model.unlink()
    return "model.safetensors: cannot be read"


def without_column(shop, model: Path) -> str:
    shop.table().drop("town").write_csv(shop.csv)
    return "shop.csv: column 'town': missing"


def dirty(shop, model: Path) -> str:
    shop.table().with_columns(spend=pl.lit("1234,5678")).write_csv(shop.csv)
    return "shop.csv: column 'spend': expected numbers, 200 values are not"


def empty(shop, model: Path) -> str:
    shop.table().head(0).write_csv(shop.csv)
    return "shop.csv: empty table"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(other_contract, 2), (truncated, 1), (foreign, 1), (absent, 1), (without_column, 1), (dirty, 1), (empty, 1)],
)
def test_what_cannot_be_scored_is_named_and_the_old_scores_stay(fedmarket: Callable, shop, model, spoil, code: int):
    (shop.folder / "scores.csv").write_text("old")
    before = {path.name for path in shop.folder.iterdir()}
    said = spoil(shop, model)
    ran = predict(fedmarket, shop, model)
    assert said in ran.error
    assert ran.code == code
    assert (shop.folder / "scores.csv").read_text() == "old"
    assert {path.name for path in shop.folder.iterdir()} == before - (
        {"model.safetensors"} if spoil is absent else set()
    )


@pytest.mark.parametrize(
    ("output", "said"), [("scores.xlsx", "expected a name"), ("shop.csv/x.csv", "cannot be written")]
)
def test_an_output_that_cannot_be_is_named_and_exits_with_2(fedmarket: Callable, shop, model, output: str, said: str):
    ran = predict(fedmarket, shop, model, output=output)
    assert said in ran.error
    assert ran.code == 2


def test_scores_never_take_the_place_of_the_table_or_the_model(fedmarket: Callable, shop, model):
    before = shop.csv.read_bytes()
    ran = predict(fedmarket, shop, model, output="shop.csv")
    assert "shop.csv: is an input of this command" in ran.error
    assert ran.code == 2
    assert shop.csv.read_bytes() == before


def test_a_model_without_privacy_says_so_when_it_scores(fedmarket: Callable, shop, model):
    contract = load_contract(shop.contract)
    found = load_model(model, contract)
    save_model(model, found.state, model=found.model, contract=contract, private=False)
    ran = predict(fedmarket, shop, model)
    assert ran.code == 0
    assert ran.err.startswith("NOT PRIVATE:")


def test_the_demos_customers_keep_the_demos_contract(fedmarket: Callable):
    demo = Path(__file__).parents[2] / "experiments" / "demo"
    ran = fedmarket("check", "--contract", demo / "contract.toml", "--data", demo / "customers.csv")
    assert ran.code == 0
    assert "200 rows" in ran.out
