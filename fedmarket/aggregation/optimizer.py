"""The server's step: heavy-ball momentum on the mean update, and the average of the late iterates.

All of it is post-processing of noisy sums: it spends nothing.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from fedmarket.arrays import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """Momentum (Polyak 1964) with iterate averaging (Polyak and Juditsky 1992), as a value.

    Attributes:
        parameters: the current iterate, (p,).
        velocity: accumulated momentum, (p,).
        iterate_sum: sum of the iterates that count for the average, (p,).
        averaged: how many they are.
    """

    parameters: FloatArray
    velocity: FloatArray
    iterate_sum: FloatArray
    averaged: int

    @classmethod
    def starting_at(cls, parameters: FloatArray) -> Self:
        """Return the optimizer before its first step."""
        zeros = np.zeros_like(parameters)
        return cls(parameters=parameters, velocity=zeros, iterate_sum=zeros, averaged=0)

    def step(self, gradient: FloatArray, *, learning_rate: float, momentum: float, average: bool) -> "ServerOptimizer":
        """Return the optimizer after one step along ``gradient`` (p,); ``average`` counts the new iterate."""
        velocity = momentum * self.velocity + gradient
        parameters = self.parameters - learning_rate * velocity
        return ServerOptimizer(
            parameters=parameters,
            velocity=velocity,
            iterate_sum=self.iterate_sum + parameters if average else self.iterate_sum,
            averaged=self.averaged + int(average),
        )

    @property
    def released(self) -> FloatArray:
        """The parameters to release: the average, or the last iterate where none was averaged."""
        return self.iterate_sum / self.averaged if self.averaged else self.parameters
