"""Federated marketing models with differential privacy: train together, share nothing but a noisy sum.

The folders read as the way of the data: ``contract``, ``data``, ``models``, ``privacy``, ``training``,
``aggregation``, ``federation``, ``evaluation``, ``report``; ``flower`` carries the messages.
"""

__version__: str


def __getattr__(name: str) -> str:
    """Look ``__version__`` up when it is asked for: it takes a third of what ``--help`` may."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("fedmarket")
