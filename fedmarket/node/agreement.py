"""What follows from the documents that a partner agreed to: the same terms as all others have."""

from dataclasses import dataclass
from pathlib import Path

from fedmarket.config import ExperimentConfig, load_config
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import JOINT, Arm, arm_named, terms_of
from fedmarket.federation.identity import Identity
from fedmarket.federation.roster import load_roster
from fedmarket.federation.seat import Seat
from fedmarket.federation.terms import Terms
from fedmarket.node.settings import Partner

ARM: Arm = arm_named(JOINT)
"""The one federation that partners take part in; baselines are a simulation's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The experiment as it was agreed, its contract, and their terms."""

    config: ExperimentConfig
    contract: Contract
    terms: Terms


def agreement_of(partner: Partner) -> Agreement:
    """Return what the partner's copy of the federation's documents says.

    Raises:
        FedmarketError: what is wrong with them.
    """
    config = load_config(partner.federation)
    contract = load_contract(Path(config.data.contract))
    return Agreement(config=config, contract=contract, terms=terms_of(ARM, config, contract, seed=config.seeds[0]))


def seat_of(partner: Partner, identity: Identity, terms: Terms) -> Seat | None:
    """Return the partner's seat, held against its terms; None where sums are in the open.

    Raises:
        ConfigError: if its key is not in the roster, or under another name.
        PlanError: if the roster was not made for these terms.
    """
    roster = load_roster(partner.roster)
    place = roster.index_of_key(identity.public_key)
    if place is None:
        raise ConfigError(
            f"{partner.roster}: the key in {partner.identity} is not in this roster; "
            "compare its hash with another partner's, by fedmarket roster check"
        )
    if roster.names[place] != partner.name:
        raise ConfigError(f"{partner.roster}: knows the key in {partner.identity} as {roster.names[place]!r}")
    if terms.secagg != "secure":
        return None
    terms.need_fitting(roster)
    return Seat(identity=identity, roster=roster)
