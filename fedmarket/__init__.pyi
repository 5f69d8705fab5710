from fedmarket.api.audits import Audit as Audit
from fedmarket.api.audits import verify as verify
from fedmarket.api.experiments import frontier as frontier
from fedmarket.api.experiments import simulate as simulate
from fedmarket.api.figures import Figure as Figure
from fedmarket.api.results import Frontier as Frontier
from fedmarket.api.results import Result as Result
from fedmarket.api.scores import predict as predict
from fedmarket.api.tables import check as check
from fedmarket.errors import FedmarketError as FedmarketError

__all__ = [
    "Audit",
    "FedmarketError",
    "Figure",
    "Frontier",
    "Result",
    "check",
    "frontier",
    "predict",
    "simulate",
    "verify",
]
__version__: str
