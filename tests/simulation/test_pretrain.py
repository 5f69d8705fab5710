"""``pretrain`` reads no row, writes what the experiment names, and anyone can make it again."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.data.encode import encode
from fedmarket.data.process import imagined_lines
from fedmarket.data.transactions import customers_of
from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import layout_for, start_for
from fedmarket.models.objectives import objective_of
from fedmarket.models.released import predict
from fedmarket.models.state import ModelState
from fedmarket.simulation import pretrain as module
from fedmarket.simulation.pretrain import pretrain

WITH_START = ('output = "out"', 'output = "out"\nstart = "start.json"')


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CUSTOMERS", 1500)


@pytest.fixture
def path(write_value_market, tmp_path: Path) -> Path:
    return write_value_market(tmp_path / "market", WITH_START)


def test_the_start_is_written_where_the_experiment_names_it_and_taken_from_there(path: Path):
    (path.parent / "lines.csv").unlink()  # no row of anybody is read
    written = pretrain(path)
    assert written == path.parent / "start.json"
    config = load_config(path)
    contract = load_contract(Path(config.data.contract))
    start = start_for(config, contract)
    assert start is not None
    document = json.loads(written.read_text(encoding="utf-8"))
    assert document["contract"] == contract.hash
    assert document["made_by"] == "fedmarket pretrain: 1500 customers imagined by BG/NBD and Gamma-Gamma, seed 0"
    assert document["parameters"] == start.parameters.tolist()
    assert str(path.parent) not in written.read_text(encoding="utf-8")


def test_the_same_contract_gives_the_same_bytes_and_another_one_others(path: Path):
    first = pretrain(path).read_bytes()
    assert pretrain(path).read_bytes() == first
    contract = path.parent / "contract.toml"
    contract.write_text(contract.read_text().replace("end = 2025-01-01", "end = 2024-10-01"))
    other = json.loads(pretrain(path).read_text())
    assert other["parameters"] != json.loads(first)["parameters"]
    assert other["contract"] != json.loads(first)["contract"]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"binning = false": "binning = true"},
        {"hidden = []": "hidden = [4]"},
        {'kind = "ziln"': 'kind = "two-part"'},
    ],
    ids=["zero-inflated lognormal", "binned", "hidden", "two parts"],
)
def test_the_start_knows_who_of_other_imagined_customers_spends_most(
    write_value_market, tmp_path: Path, keys: dict[str, str]
):
    path = write_value_market(tmp_path, WITH_START, *keys.items())
    pretrain(path)
    config = load_config(path)
    contract = load_contract(Path(config.data.contract))
    table = customers_of(imagined_lines(contract.transactions, customers=3000, seed=99), contract.transactions)
    encoded = encode(table, contract, layout_for(config, contract))
    objective, width = objective_of(config.model, contract), encoded.features.shape[1]
    state = ModelState(
        centre=np.zeros(width),
        scale=np.ones(width),
        parameters=start_for(config, contract).parameters,
        calibration=objective.uncalibrated,
    )
    said = predict(config.model, objective, state, encoded.features, calibrated=False).value
    spent, best = encoded.targets[:, -1], said > np.quantile(said, 0.8)
    assert spent[best].mean() > 2 * spent.mean()
    assert said.mean() == pytest.approx(spent.mean(), rel=0.5)


def test_a_start_for_another_contract_or_model_is_refused_by_those_who_train(path: Path):
    pretrain(path)
    config = load_config(path, changes=("model.binning=true",))
    contract = load_contract(Path(config.data.contract))
    with pytest.raises(ConfigError, match=r"start\.json: the model has \d+ parameters, got \d+; make it anew"):
        start_for(config, contract)
    other = contract.model_copy(update={"name": "another"})
    with pytest.raises(ConfigError, match=r"start\.json: made for contract \w{12}, not \w{12}; make it anew"):
        start_for(load_config(path), other)


def test_without_a_key_or_without_transactions_there_is_nothing_to_make(
    write_value_market, write_joint_market, tmp_path: Path
):
    with pytest.raises(ConfigError, match=r"config\.toml: start: missing; name the file that is to be written$"):
        pretrain(write_value_market(tmp_path / "lines"))
    with pytest.raises(ConfigError, match=r"start: contract .* has no transactions to imagine$"):
        pretrain(write_joint_market(tmp_path / "joint", WITH_START))
    assert not list(tmp_path.rglob("start.json"))
