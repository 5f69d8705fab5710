"""Federated marketing models with differential privacy: train together, share nothing but a noisy sum.

The folders read as the way of the data: ``contract``, ``data``, ``models``, ``privacy``, ``training``,
``aggregation``, ``federation``, ``evaluation``, ``report``; ``flower`` carries the messages.
"""

from importlib.metadata import version

__version__ = version("fedmarket")
