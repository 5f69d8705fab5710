"""Federated marketing models with differential privacy: train together, share nothing but a noisy sum.

The folders read as the way of the data: ``contract``, ``data``, ``models``, ``privacy``, ``training``,
``aggregation``, ``federation``, ``evaluation``, ``report``; ``flower`` carries the messages.
"""

__version__ = "0.1.0"
