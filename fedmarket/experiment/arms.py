"""The arms of an experiment: one federation each, told apart by who takes part and under which terms.

Every trained baseline is a run of the same two apps. A pooled model is a federation of one party that holds all rows,
a local one is a federation of one party with its own. So a difference between arms is a difference of terms and never
of code. Terms come from contract and configuration alone, and never from rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmarket.aggregation.scaling import Scaling
from fedmarket.config import ExperimentConfig, Schedule
from fedmarket.contract.layout import Layout, layout_of
from fedmarket.contract.schema import Contract
from fedmarket.contract.segments import segment_count
from fedmarket.errors import ConfigError
from fedmarket.federation.terms import Terms
from fedmarket.models.network import network_of, parameter_count
from fedmarket.models.objectives import Objective, objective_of
from fedmarket.models.start import Start, load_start
from fedmarket.privacy.plan import Sharing, plan_for, unprotected_plan
from fedmarket.privacy.shape import Shape

FINEST_BITS: Literal[64] = 64
"""Modulus of the arms that are not to be charged with rounding: steps far below float64's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One federation of the experiment.

    Attributes:
        holders: who holds the rows: the parties of the market, one party with all rows, or each party alone.
        schedule: which of the experiment's schedules it trains by.
        clipped: whether each row's gradient is clipped.
        rounded: whether updates are rounded to the configured modulus, or to the finest.
        noisy: whether the privacy plan holds. Only then is there something to hide: updates are masked as configured,
            and summed in the open in the baselines, which gives the same sum to the last bit.
    """

    name: str
    description: str
    holders: Literal["parties", "pooled", "alone"]
    schedule: Literal["training", "alone_training", "baseline_training"]
    clipped: bool = False
    rounded: bool = False
    noisy: bool = False

    @property
    def recorded(self) -> bool:
        """Whether parties keep ledgers of it: it is the run that companies would really make, and no baseline."""
        return self.noisy and self.holders == "parties"


JOINT = "federated_dp"
"""The arm that is released."""

ARMS = (
    Arm(name="pooled", description="all rows in one place, no privacy", holders="pooled", schedule="baseline_training"),
    Arm(
        name="pooled_dp",
        description="all rows in one place, the same privacy",
        holders="pooled",
        schedule="training",
        clipped=True,
        rounded=True,
        noisy=True,
    ),
    Arm(name="local_only", description="each party alone, no privacy", holders="alone", schedule="alone_training"),
    Arm(
        name="local_only_dp",
        description="each party alone, the same privacy",
        holders="alone",
        schedule="alone_training",
        clipped=True,
        rounded=True,
        noisy=True,
    ),
    Arm(name="federated", description="joint, no privacy", holders="parties", schedule="baseline_training"),
    Arm(
        name="federated_schedule",
        description="joint, the private run's few steps",
        holders="parties",
        schedule="training",
    ),
    Arm(
        name="federated_clipped",
        description="joint, few steps, clipped",
        holders="parties",
        schedule="training",
        clipped=True,
    ),
    Arm(
        name="federated_rounded",
        description="joint, few steps, clipped, rounded to integers",
        holders="parties",
        schedule="training",
        clipped=True,
        rounded=True,
    ),
    Arm(
        name=JOINT,
        description="joint, with differential privacy for every customer",
        holders="parties",
        schedule="training",
        clipped=True,
        rounded=True,
        noisy=True,
    ),
)

DECOMPOSITION = (
    ("federation", "pooled", "federated", "training where the rows are"),
    ("schedule", "federated", "federated_schedule", "taking fewer steps, as each one costs privacy"),
    ("clipping", "federated_schedule", "federated_clipped", "bounding what one customer can change"),
    ("rounding", "federated_clipped", "federated_rounded", "integers instead of real numbers"),
    ("noise", "federated_rounded", "federated_dp", "noise that hides each customer"),
)
"""(step, from, to, in words): the way from the pooled model to the private federated one."""


def arm_named(name: str) -> Arm:
    """Return the arm called ``name``.

    Raises:
        ConfigError: if there is none.
    """
    for arm in ARMS:
        if arm.name == name:
            return arm
    raise ConfigError(f"arm: expected one of {', '.join(arm.name for arm in ARMS)}, got {name!r}")


def layout_for(config: ExperimentConfig, contract: Contract) -> Layout:
    """Return the layout of encoded rows for the configured model."""
    return layout_of(contract, binning=config.model.binning)


def terms_of(arm: Arm, config: ExperimentConfig, contract: Contract, *, seed: int) -> Terms:
    """Return the terms of ``arm``; ``seed`` starts the parameters, in public.

    Raises:
        PlanError: if no noise reaches the configured epsilon, or it does not fit the words.
    """
    _need_value_shares(config, contract)
    layout, objective = layout_for(config, contract), objective_of(config.model, contract)
    schedule: Schedule = getattr(config, arm.schedule)
    agreed = (config.privacy, contract.privacy, schedule)
    shape, start = _shape(config, contract, layout, objective), start_for(config, contract)
    federation = config.federation
    least, parties, rows = _minimum_survivors(config, contract), federation.max_parties, federation.max_party_rows
    shares = least - config.privacy.colluders
    if arm.holders != "parties":  # one party holds what all may hold, and nobody shares its noise
        least, parties, rows, shares = 1, 1, parties * rows, 1
    modulus_bits = config.aggregation.modulus_bits if arm.rounded else FINEST_BITS
    if arm.noisy:
        sharing = Sharing(shares=shares, parties=parties, party_rows=rows, modulus_bits=modulus_bits)
        plan = plan_for(*agreed, shape=shape, sharing=sharing)
    else:
        clip_norm = config.privacy.clip_norm if arm.clipped else float("inf")
        plan = unprotected_plan(*agreed, shape=shape, clip_norm=clip_norm)
    terms = Terms(
        contract_hash=contract.hash,
        model=config.model,
        objective=objective,
        width=shape.width,
        parameters=shape.parameters,
        segments=shape.segments,
        initial_seed=seed,
        start_hash=start.hash if start else "",
        schedule=schedule,
        scaling=Scaling(
            row_norm=config.scaling.row_norm,
            exponent=config.scaling.exponent,
            one_hot=layout.one_hot,
            weights=layout.weights,
        ),
        plan=plan,
        modulus_bits=modulus_bits,
        secagg=config.aggregation.secagg if arm.recorded else "ideal",
        max_parties=parties,
        max_party_rows=rows,
        minimum_survivors=least,
    )
    for mechanism in plan.mechanisms:
        terms.grid_of(mechanism.phase)  # noise that does not fit the words is found now, and not in a round
    return terms


def start_for(config: ExperimentConfig, contract: Contract) -> Start | None:
    """Return the public start that the configuration names, or None.

    Raises:
        ConfigError: if it is not there or was made for another contract or model.
    """
    if config.start is None:
        return None
    width, objective = layout_for(config, contract).width, objective_of(config.model, contract)
    count = parameter_count(network_of(config.model, width, objective))
    return load_start(Path(config.start), contract, parameters=count)


def _shape(config: ExperimentConfig, contract: Contract, layout: Layout, objective: Objective) -> Shape:
    return Shape(
        width=layout.width,
        norm_bound=layout.norm_bound,
        parameters=parameter_count(network_of(config.model, layout.width, objective)),
        response=objective.response,
        purchase=objective.value is not None and objective.value.purchase,
        value=objective.value is not None,
        segments=segment_count(contract.segments),
    )


def _need_value_shares(config: ExperimentConfig, contract: Contract) -> None:
    if contract.value is not None and config.privacy.value is None:
        raise ConfigError(f"privacy.value: missing, but contract {contract.name} has a value: level and segments cost")
    if contract.value is None and config.privacy.value is not None:
        raise ConfigError(f"privacy.value: contract {contract.name} has no value; leave it out")


def _minimum_survivors(config: ExperimentConfig, contract: Contract) -> int:
    least = config.federation.minimum_survivors
    if least < contract.minimum_parties:
        raise ConfigError(
            f"federation.minimum_survivors: contract {contract.name} needs at least {contract.minimum_parties} "
            f"parties in a sum, got {least}"
        )
    return least
