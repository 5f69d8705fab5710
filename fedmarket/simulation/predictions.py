"""What each arm says of the common test rows, and what learners of other classes say beside it."""

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.contract.layout import layout_of
from fedmarket.contract.transactions import TransactionTerms
from fedmarket.data.encode import coded
from fedmarket.errors import ConfigError, DataError
from fedmarket.experiment.arms import start_for
from fedmarket.experiment.market import Market
from fedmarket.models.objectives import objective_of
from fedmarket.models.prediction import Prediction
from fedmarket.models.released import predict
from fedmarket.models.start import Start
from fedmarket.models.state import ModelState
from fedmarket.training.buyers import fit_buyers

BOOSTED = "gradient boosting"
PAST_SPEND = "past spend"
BUYERS = "buy till you die"
PUBLIC_START = "public start"

DAYS_IN_A_WEEK = 7.0


def arm_prediction(market: Market, state: ModelState, *, calibrated: bool = True) -> Prediction:
    """Return what the model ``state`` says of the common test rows."""
    model = market.config.model
    rows = market.features.taken(market.test_rows)
    return predict(model, objective_of(model, market.contract), state, rows, calibrated=calibrated)


def boosted_prediction(market: Market) -> Prediction:
    """Return the test rows' predictions by gradient boosting on all training rows in one place."""
    # Loads scikit-learn, which no round needs.
    from fedmarket.training.baselines import boosted_probabilities, boosted_values  # noqa: PLC0415

    contract, train, test = market.contract, market.train_rows, market.test_rows
    features = coded(market.population.table, layout_of(contract, binning=False))
    targets, seed = market.population.targets[train], market.seed
    response = value = None
    if contract.label is not None:
        response = boosted_probabilities(features[train], targets[:, 0], features[test], seed=seed)
    if contract.value is not None:
        value = boosted_values(features[train], targets[:, -1], features[test], seed=seed)
    return Prediction(response=response, value=value)


def past_spend_of(market: Market) -> FloatArray | None:
    """Return what each row's customer has spent so far, (n,), where the contract has a value and somebody says it.

    Raises:
        ConfigError: if the configured column is not there or holds no amounts.
    """
    if market.contract.value is None:
        return None
    table = market.population.table
    name = "total_spend" if market.contract.transactions else market.config.evaluation.past_spend
    if name is None:
        return None
    cells = table[name] if name in table.columns else None
    if cells is None or not cells.dtype.is_numeric() or not (cells.is_finite() & (cells >= 0)).all(ignore_nulls=False):
        raise ConfigError(f"evaluation.past_spend: expected a column of numbers from 0 on without gaps, got {name!r}")
    return cells.to_numpy().astype(np.float64)


def simple_predictions(market: Market) -> dict[str, Prediction]:
    """Return what needs no network: past spend times a constant, a probability model of buyers, the public start.

    The second is BG/NBD with Gamma-Gamma spend on all training customers in one place, where there are transactions;
    the third is what the model says before any customer is looked at, where it has such a start.
    """
    found, past = {}, past_spend_of(market)
    train, test = market.train_rows, market.test_rows
    if past is not None:
        from fedmarket.training.baselines import scaled_past_spend  # noqa: PLC0415 - scikit-learn, as above

        values = market.population.targets[train, -1]
        found[PAST_SPEND] = Prediction(value=scaled_past_spend(past[train], values, past[test]))
    if market.contract.transactions is not None:
        buyers = _buyers(market, market.contract.transactions)
        if buyers is not None:
            found[BUYERS] = Prediction(value=buyers)
    start = start_for(market.config, market.contract)
    if start is not None:
        found[PUBLIC_START] = _untrained(market, start)
    return found


def _untrained(market: Market, start: Start) -> Prediction:
    width = market.layout.width
    objective = objective_of(market.config.model, market.contract)
    state = ModelState(
        centre=np.zeros(width),
        scale=np.ones(width),
        parameters=start.parameters,
        calibration=objective.uncalibrated,
    )
    return arm_prediction(market, state, calibrated=False)


def _buyers(market: Market, terms: TransactionTerms) -> FloatArray | None:
    """Return the expected spend of the test rows, (m,); None where the process does not fit these customers at all."""
    table = market.population.table
    days = {"frequency": "frequency", "recency": "recency_days", "tenure": "tenure_days", "total_spend": "total_spend"}
    columns = {name: table[column].to_numpy().astype(np.float64) for name, column in days.items()}
    for name in ("recency", "tenure"):
        columns[name] = columns[name] / DAYS_IN_A_WEEK
    train, test = market.train_rows, market.test_rows
    try:
        fitted = fit_buyers(**{name: values[train] for name, values in columns.items()})
        weeks = (terms.end - terms.cut).days / DAYS_IN_A_WEEK
        return fitted.expected_spend(**{name: values[test] for name, values in columns.items()}, weeks=weeks)
    except DataError:
        return None
