"""Names for the arrays that travel between the folders."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
"""Real vectors: parameters, sums, probabilities."""

FeatureArray = NDArray[np.float32]
"""Encoded rows (n, width) and their labels (n,)."""

WordArray = NDArray[np.unsignedinteger]
"""Residues modulo 2 ** 32 or 2 ** 64, one for each coordinate of an update."""

RowNumbers = NDArray[np.int64]
"""Numbers of rows of a table."""

AnyArray = NDArray[Any]
"""An array that came from outside and is not yet checked."""
