"""Column scales from the private centre: post-processing, by which noise is spent where it teaches most.

Full-batch private gradient descent is held back by the noise on each parameter alike. Scaling a place up makes its
parameter move faster for the same noise; a common bound on the rows' norm says that not all can be large.
"""

from dataclasses import dataclass

import numpy as np

from fedmarket.arrays import FloatArray

RAREST = 0.01
"""Added to a share before it is raised to a power, so that a word that nobody has is not scaled without bound."""

NUMERIC_SHARE = 0.3
NUMERIC_VARIANCE = 0.05
"""What a scaled number counts as: its share and its variance are not known without another release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How to scale the places of an encoded row; see :class:`fedmarket.config.ScalingSection`.

    Attributes:
        row_norm: norm of a typical scaled and centred row, with the 1 of the intercept.
        exponent: how much rarer words are scaled up.
        one_hot: for each place, whether it is 0 or 1.
        weights: for each place, the public weight of its column.
    """

    row_norm: float
    exponent: float
    one_hot: tuple[bool, ...]
    weights: tuple[float, ...]

    def projected(self, centre: FloatArray) -> FloatArray:
        """Return the noisy ``centre`` (width,) moved into the range that means can have."""
        return np.clip(centre, np.where(self.one_hot, 0.0, -1.0), 1.0)

    def of(self, centre: FloatArray) -> FloatArray:
        """Return the scale of each place, (width,), for a projected ``centre``."""
        one_hot = np.array(self.one_hot)
        share = np.where(one_hot, centre + RAREST, NUMERIC_SHARE)
        variance = np.where(one_hot, centre * (1.0 - centre), NUMERIC_VARIANCE)
        scale = np.array(self.weights) * share**-self.exponent
        typical = float(np.sqrt(np.sum(scale**2 * variance)))
        return np.asarray(scale * np.sqrt(self.row_norm**2 - 1.0) / max(typical, 1e-9))
