"""Federated marketing models with differential privacy: train together, share nothing but a noisy sum.

The folders read as the way of the data: ``contract``, ``data``, ``models``, ``privacy``, ``training``,
``aggregation``, ``federation``, ``evaluation``, ``report``; ``flower`` carries the messages.

What notebooks call is here by name and loaded when it is asked for; ``__init__.pyi`` says of which types it is.
"""

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

_HOMES = {
    "Audit": "fedmarket.api.audits",
    "FedmarketError": "fedmarket.errors",
    "Figure": "fedmarket.api.figures",
    "Frontier": "fedmarket.api.results",
    "Result": "fedmarket.api.results",
    "check": "fedmarket.api.tables",
    "frontier": "fedmarket.api.experiments",
    "predict": "fedmarket.api.scores",
    "simulate": "fedmarket.api.experiments",
    "verify": "fedmarket.api.audits",
}


def __getattr__(name: str) -> object:
    """Look up what is asked for: ``__version__`` alone takes a third of what ``--help`` may."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("fedmarket")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
