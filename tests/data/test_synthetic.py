"""The market is determined by its seed, keeps its contract, and its truth is true."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import hyp2f1
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedmarket.config import load_config
from fedmarket.contract.check import check_table
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import load_contract
from fedmarket.data import synthetic
from fedmarket.data.encode import encode
from fedmarket.data.synthetic import Market, synthetic_market
from fedmarket.errors import DataError
from fedmarket.files import sha256_of

DEMO = Path(__file__).parents[2] / "experiments" / "demo"


@pytest.fixture(scope="module")
def market() -> Market:
    return synthetic_market(customers=30_000, parties=8, seed=7)


def answers(market: Market) -> np.ndarray:
    return (market.table["responded"] == "yes").to_numpy()


def test_the_seed_determines_everything():
    one, same, other = (synthetic_market(customers=500, parties=3, seed=seed) for seed in (1, 1, 2))
    assert one.table.equals(same.table)
    np.testing.assert_array_equal(one.party, same.party)
    np.testing.assert_array_equal(one.response_probability, same.response_probability)
    np.testing.assert_array_equal(one.expected_value, same.expected_value)
    assert not one.table.equals(other.table)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parties", [1, 8, 40])
def test_every_market_keeps_the_demo_contract(seed: int, parties: int):
    made = synthetic_market(customers=4_000, parties=parties, seed=seed)
    profile = check_table(made.table, load_contract(DEMO / "contract.toml"), source="market")
    assert profile.ignored == ("past_spend", "spend_next_year")
    assert len(set(made.party)) == parties


def test_the_demo_configuration_loads_and_names_its_contract():
    config = load_config(DEMO / "config.toml")
    assert config.name == "demo"
    assert load_contract(Path(config.data.contract)).minimum_parties == 4


def test_the_market_has_missing_values_and_a_word_outside_the_vocabulary(market: Market):
    profile = check_table(market.table, load_contract(DEMO / "contract.toml"), source="market")
    found = {column.name: (column.missing, column.other) for column in profile.columns if column.missing + column.other}
    assert {name for name, (missing, _) in found.items() if missing} == {"age", "loyalty_tier", "days_since_contact"}
    assert {name for name, (_, other) in found.items() if other} == {"channel"}


def test_the_rates_are_those_of_a_campaign(market: Market):
    truth = market.response_probability
    rates = np.array([truth[market.party == name].mean() for name in np.unique(market.party)])
    assert truth.mean() == pytest.approx(0.12, abs=1e-9)
    assert rates.min() >= 0.06
    assert rates.max() <= 0.25
    assert rates.max() - rates.min() > 0.08


def test_companies_differ_in_size_and_in_their_customers(market: Market):
    sizes = np.unique(market.party, return_counts=True)[1]
    capital = (pl.col("region") == "capital").alias("capital")
    columns = ["age", "frequency", "average_spend"]
    means = (
        market.table.with_columns(capital).group_by(pl.Series("party", market.party)).agg(pl.mean(*columns, "capital"))
    )
    assert sizes.max() > 3 * sizes.min()
    for column, ratio in {"age": 1.1, "frequency": 1.25, "average_spend": 1.25, "capital": 1.25}.items():
        assert float(means[column].max()) > ratio * float(means[column].min()), column


def test_company_names_go_on_beyond_the_list():
    made = synthetic_market(customers=200, parties=15, seed=0)
    assert {"bank", "streaming", "company-13", "company-15"} <= set(made.party)


def chi_square(outcome: np.ndarray, probability: np.ndarray) -> float:
    """Hosmer and Lemeshow's statistic over 20 groups of equal size."""
    groups = np.array_split(np.argsort(probability), 20)
    expected = np.array([probability[group].sum() for group in groups])
    variance = np.array([(probability[group] * (1 - probability[group])).sum() for group in groups])
    seen = np.array([outcome[group].sum() for group in groups])
    return float(((seen - expected) ** 2 / variance).sum())


def test_the_true_probabilities_are_calibrated_and_slightly_wrong_ones_are_not(market: Market):
    limit = chi2.ppf(0.999, df=20)
    assert chi_square(answers(market), market.response_probability) < limit
    assert chi_square(answers(market), market.response_probability * 1.1) > limit


@pytest.mark.parametrize("binning", [False, True])
def test_the_truth_ranks_better_than_a_fitted_logistic_regression(market: Market, binning: bool):
    contract = load_contract(DEMO / "contract.toml")
    encoded = encode(market.table, contract, layout_of(contract, binning=binning))
    labels = encoded.targets[:, 0]
    train, test = slice(0, 20_000), slice(20_000, None)
    fitted = LogisticRegression(max_iter=1000).fit(encoded.features[train], labels[train])
    truth = roc_auc_score(labels[test], market.response_probability[test])
    learnt = roc_auc_score(labels[test], fitted.decision_function(encoded.features[test]))
    assert 0.76 < truth < 0.82
    assert 0.70 < learnt < truth - 0.01


def test_purchases_follow_the_law_of_fader_hardie_and_lee():
    rng = np.random.default_rng(0)
    n, weeks = 40_000, 100.0
    r, alpha, a, b = synthetic.RATE_SHAPE, synthetic.RATE_WEEKS, synthetic.DROP_A, synthetic.DROP_B
    histories = synthetic._histories(rng.gamma(r, 1 / alpha, n), rng.beta(a, b, n), np.full(n, weeks), rng)

    def mean_purchases(b: float) -> float:
        series = hyp2f1(r, b, a + b - 1, weeks / (alpha + weeks))
        return float((a + b - 1) / (a - 1) * (1 - (alpha / (alpha + weeks)) ** r * series))

    error = histories.frequency.std() / np.sqrt(n)
    assert abs(histories.frequency.mean() - mean_purchases(b)) < 4 * error
    assert abs(histories.frequency.mean() - mean_purchases(1.1 * b)) > 4 * error
    assert (histories.last_week <= weeks).all()


def test_expected_purchases_are_the_mean_of_the_process():
    rng = np.random.default_rng(0)
    n, rate, drop = 40_000, np.array([0.05, 0.3]), np.array([0.3, 0.05])
    for one_rate, one_drop, expected in zip(rate, drop, synthetic._expected_purchases(rate, drop, 52.0), strict=True):
        histories = synthetic._histories(np.full(n, one_rate), np.full(n, one_drop), np.full(n, 52.0), rng)
        error = histories.frequency.std() / np.sqrt(n)
        assert abs(histories.frequency.mean() - expected) < 4 * error


def test_customers_who_dropped_out_are_worth_nothing(market: Market):
    assert 0.1 < (market.expected_value == 0).mean() < 0.6
    assert np.isfinite(market.expected_value).all()
    assert (market.expected_value >= 0).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (
            {"customers": 500, "parties": 3, "seed": 1},
            "751643f9e83b9a6c40ca2ec5a61048e224b797930eaae59cfc556e4814e16514",
        ),
        (
            {"customers": 1500, "parties": 4, "seed": 7},
            "364df36f5e2f90b5b8f59e1bc8426a66489cfaa193c78ed76ead40835d93b99f",
        ),
    ],
)
def test_the_year_to_come_left_all_other_columns_as_they_were(size: dict[str, int], expected: str):
    table = synthetic_market(**size).table
    assert table.columns[-1] == "spend_next_year"
    assert sha256_of(table.drop("past_spend", "spend_next_year").write_csv().encode()) == expected


def test_the_spend_to_come_is_money_and_nothing_for_those_who_dropped_out(market: Market):
    spend = market.table["spend_next_year"].to_numpy()
    assert (spend == spend.round(2)).all()
    assert (spend[market.expected_value == 0] == 0).all()
    assert 0.3 < (spend == 0).mean() < 0.7
    assert spend.min() == 0


@pytest.mark.statistical
def test_the_expected_value_is_the_mean_of_the_spend_to_come_and_a_slightly_wrong_one_is_not(market: Market):
    spend, expected = market.table["spend_next_year"].to_numpy(), market.expected_value
    groups = np.array_split(np.argsort(expected), 20)[10:]  # Half of the customers dropped out or hardly buy.
    limit = chi2.ppf(0.999, df=len(groups))

    def distance(told: np.ndarray) -> float:
        left = [spend[group] - told[group] for group in groups]
        return float(sum(part.mean() ** 2 / (part.var() / part.size) for part in left))

    assert distance(expected) < limit
    assert distance(1.1 * expected) > limit
    assert distance(np.full(spend.size, spend.mean())) > limit


@pytest.mark.parametrize("parties", [0, 101])
def test_parties_without_customers_are_refused(parties: int):
    with pytest.raises(DataError, match=f"expected 1 to 100 parties for 100 customers, got {parties}"):
        synthetic_market(customers=100, parties=parties, seed=0)
