"""The numbers of a model, as parties and coordinator pass them on; no torch is needed to hold them."""

import hashlib
from dataclasses import dataclass

from fedmarket.arrays import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """The numbers of a model, all float64.

    Attributes:
        centre: (width,) subtracted from an encoded row before the network sees it.
        scale: (width,) by which what is left is multiplied.
        parameters: (p,) the network's flat vector.
        calibration: (k,) see :mod:`fedmarket.models.prediction`.
    """

    centre: FloatArray
    scale: FloatArray
    parameters: FloatArray
    calibration: FloatArray

    @property
    def hash(self) -> bytes:
        """SHA-256 of the four vectors, each as its length (8 bytes, big-endian) and its little-endian float64."""
        digest = hashlib.sha256()
        for vector in (self.centre, self.scale, self.parameters, self.calibration):
            digest.update(len(vector).to_bytes(8, "big") + vector.astype("<f8").tobytes())
        return digest.digest()
