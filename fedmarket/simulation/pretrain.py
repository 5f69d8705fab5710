"""``pretrain``: a public start from customers of a public process, written where the experiment names it."""

from pathlib import Path

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.data.encode import encode
from fedmarket.data.process import imagined_lines
from fedmarket.data.transactions import customers_of
from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import layout_for
from fedmarket.models.objectives import objective_of
from fedmarket.models.start import Start, save_start
from fedmarket.training.pretraining import pretrained

CUSTOMERS = 20_000
SEED = 0


def pretrain(config_path: Path) -> Path:
    """Write the start that the experiment at ``config_path`` names, and return where it is.

    No row of anybody is read: the customers are imagined under the contract's own terms
    (:mod:`fedmarket.data.process`), so that the start is public and may be handed to everyone.

    Raises:
        ConfigError: if the experiment names no start, or its contract has no transactions to imagine.
    """
    config = load_config(config_path)
    contract = load_contract(Path(config.data.contract))
    if config.start is None:
        raise ConfigError(f"{config_path}: start: missing; name the file that is to be written")
    if contract.transactions is None:
        raise ConfigError(f"{config_path}: start: contract {contract.name} has no transactions to imagine")
    table = customers_of(imagined_lines(contract.transactions, customers=CUSTOMERS, seed=SEED), contract.transactions)
    encoded = encode(table, contract, layout_for(config, contract))
    if encoded.targets is None:
        raise ConfigError(f"{config_path}: start: the contract has nothing to predict")
    objective = objective_of(config.model, contract)
    parameters = pretrained(config.model, objective, encoded.features, encoded.targets, seed=SEED)
    words = f"fedmarket pretrain: {CUSTOMERS} customers imagined by BG/NBD and Gamma-Gamma, seed {SEED}"
    path = Path(config.start)
    save_start(path, Start(parameters=parameters, made_by=words), contract)
    return path
