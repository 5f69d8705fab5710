"""Every member's folder is its own, as the commands make it, and its node would serve."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedmarket.config import load_config
from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.errors import ConfigError
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.loopback.documents import TABLE, make_consortium, with_values
from fedmarket.loopback.federation import sockets_folder
from fedmarket.node.preflight import preflight

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "federation"
REAL = {"privacy.generator": "operating-system", "training.rounds": 2}


@pytest.fixture
def sockets():
    with sockets_folder() as folder:
        yield folder


@pytest.mark.parametrize("changes", [REAL, {}], ids=["tables", "seeded"])
def test_every_partner_would_pass_its_own_preflight(write_market, tmp_path, sockets, changes):
    config = write_market(tmp_path / "market")
    made = make_consortium(tmp_path / "made", config, app=ROOT, sockets=sockets, changes=changes)
    assert made.seeded is not bool(changes)
    assert made.terms.schedule.rounds == changes.get("training.rounds", 3)
    for site in made.sites:
        assert [found.words for found in preflight(site.document, server=None) if not found.good] == []
        assert (site.folder / TABLE).exists() is bool(changes)
        assert {path.stat().st_mode & 0o077 for path in (site.node_key, site.folder / "identity.pem")} == {0}
    assert not list(made.home.nodes.glob("*.key"))
    assert len({(site.folder / "identity.pem").read_bytes() for site in made.sites}) == len(made.sites)
    with pytest.raises(ConfigError, match="is there already"):
        make_consortium(tmp_path / "made", config, app=ROOT, sockets=sockets)


def test_tables_are_the_markets_rows_dealt_once(write_market, tmp_path, sockets):
    config = write_market(tmp_path / "market")
    made = make_consortium(tmp_path / "made", config, app=ROOT, sockets=sockets, changes=REAL)
    rows = [len((site.folder / TABLE).read_text().splitlines()) - 1 for site in made.sites]
    market = open_market(MarketKey(config=made.config, changes=(), seed=0))
    assert rows == [len(market.deal.train[site.name]) + len(market.deal.test[site.name]) for site in made.sites]
    assert sum(rows) == market.population.table.height


def test_a_key_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"^a\.rounds: no such key"):
        with_values("rounds = 3\n[b]\nrounds = 4\n", {"a.rounds": 5})
    assert tomllib.loads(with_values("[a]\nb = 'x'\n", {"a.b": [1.5, "y"]})) == {"a": {"b": [1.5, "y"]}}


def test_the_experiment_has_five_banks():
    if locate(next(public for public in PUBLIC_FILES if public.name == "bank-additional")) is None:
        pytest.skip("bank-additional-full.csv is not here; put it into $FEDMARKET_DATA")
    settings = load_config(FOLDER / "config.toml")
    assert settings.aggregation.secagg == "secure"
    assert settings.privacy.private_evaluation
    assert settings.privacy.generator == "operating-system"
    names = open_market(MarketKey(config=FOLDER / "config.toml", changes=(), seed=0)).names
    assert names == tuple(f"party-{number}" for number in range(1, 6))


def test_make_federation_is_the_script_and_the_script_fails_in_one_line(tmp_path):
    shown = subprocess.run(
        ["make", "--dry-run", "federation"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "experiments/federation/run.py" in shown.stdout
    ran = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--output", tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == f"error: {tmp_path}: is there already; a new federation needs a folder of its own\n"
