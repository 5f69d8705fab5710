"""A party none of whose customers came back trains with the others; only its own ranking is undefined."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.experiment.market import MarketKey, forget_markets, open_market
from fedmarket.simulation.run import Simulation, simulate

PARTY = "party-1"
QUICK = ("workers=1", "seeds=[0]", "aggregation.secagg=ideal")


@pytest.fixture(scope="module")
def found(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Return a run in which nobody of one party bought after the cut."""
    path: Path = write_value_market(tmp_path_factory.mktemp("zero"))
    market = open_market(MarketKey(config=path, changes=(), seed=0))
    rows = np.concatenate([market.deal.train[PARTY], market.deal.test[PARTY]])
    gone = market.population.table["id"][rows].to_list()
    lines = pl.read_csv(path.parent / "lines.csv", try_parse_dates=True)
    lines.filter(~(pl.col("id").is_in(gone) & (pl.col("day") >= date(2024, 7, 1)))).write_csv(path.parent / "lines.csv")
    forget_markets()
    return simulate(path, changes=QUICK)


def test_it_takes_part_and_spends_what_the_others_spend(found: Simulation):
    parties = {party["name"]: party for party in found.results["parties"]}
    assert parties[PARTY]["response_rate"] == 0
    assert all(party["response_rate"] > 0 for name, party in parties.items() if name != PARTY)
    assert len({round(party["epsilon"], 9) for party in parties.values()}) == 1
    assert found.results["federation"]["rejections"] == []
    assert found.results["federation"]["void_rounds"] == []


def test_its_own_ranking_is_undefined_and_that_of_all_is_not(found: Simulation):
    parties = {party["name"]: party for party in found.results["parties"]}
    assert [parties[PARTY][key] for key in ("alone", "alone_dp", "joint_dp", "gain")] == [None] * 4
    assert np.isfinite(found.results["arms"]["federated_dp"]["mean"])
    assert np.isfinite(found.results["arms"]["local_only"]["mean"])


def test_its_lines_are_counted_and_the_page_is_whole(found: Simulation):
    lines = found.results["value"]["lines"]
    inside = lines["calibration"] + lines["prediction"]
    assert lines["lines"] == inside + lines["before_start"] + lines["after_end"] + lines["without_customer"]
    assert PARTY in (found.folder / "report.html").read_text(encoding="utf-8")
