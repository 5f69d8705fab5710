"""Where training starts when something is publicly known: parameters made without any private row, as a document.

Networks see rows that are centred and scaled by a private release, but a start is made before that, for rows as the
contract encodes them. :func:`placed` says the same thing to the network that sees the others.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from fedmarket.arrays import FloatArray
from fedmarket.contract.schema import Contract
from fedmarket.documents import Name, Section, parse_document
from fedmarket.errors import ConfigError
from fedmarket.files import sha256_of, write_text

FORMAT = "fedmarket-start/1"

_ANEW = "make it anew with fedmarket pretrain"


class _Document(Section):
    format: Name
    contract: Name
    made_by: str
    parameters: Annotated[tuple[float, ...], Field(strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Public starting parameters.

    Attributes:
        parameters: (p,) of the network, for rows that are neither centred nor scaled.
        made_by: how they came about, in words.
    """

    parameters: FloatArray = field(repr=False)
    made_by: str

    @property
    def hash(self) -> str:
        """SHA-256 of the parameters as little-endian float64, as hexadecimal."""
        return sha256_of(self.parameters.astype("<f8").tobytes())


def placed(parameters: FloatArray, *, units: int, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """Return the parameters of the network that says of ``(row - centre) * scale`` what this one says of ``row``.

    Only the first layer changes: its weights W become W / scale, and its bias b becomes b + W centre.

    Args:
        parameters: (p,); the first layer's weights (units, width) come first, then its bias (units,).
        units: outputs of the first layer.
        centre: (width,).
        scale: (width,), above zero.
    """
    width = len(centre)
    moved = parameters.copy()
    weights = parameters[: units * width].reshape(units, width)
    moved[: units * width] = (weights / scale).ravel()
    moved[units * width : units * (width + 1)] += weights @ centre
    return moved


def save_start(path: Path, start: Start, contract: Contract) -> None:
    """Write ``start`` as a document bound to ``contract``, appearing by rename; numbers keep all their digits."""
    document = {
        "format": FORMAT,
        "contract": contract.hash,
        "made_by": start.made_by,
        "parameters": start.parameters.tolist(),
    }
    write_text(path, json.dumps(document, indent=1) + "\n")


def load_start(path: Path, contract: Contract, *, parameters: int) -> Start:
    """Return the start at ``path``.

    Raises:
        ConfigError: if it cannot be read, is for another contract, or has not as many finite ``parameters``.
    """
    document = _read(path)
    if document.contract != contract.hash:
        made_for = f"made for contract {document.contract[:12]}, not {contract.hash[:12]}"
        raise ConfigError(f"{path}: {made_for}; {_ANEW}")
    if len(document.parameters) != parameters:
        raise ConfigError(f"{path}: the model has {parameters} parameters, got {len(document.parameters)}; {_ANEW}")
    return Start(parameters=np.array(document.parameters, dtype=np.float64), made_by=document.made_by)


def _read(path: Path) -> _Document:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror or error}); make it with fedmarket pretrain"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a JSON document; {_ANEW}") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise ConfigError(f"{path}: expected a {FORMAT} document; {_ANEW}")
    try:
        return parse_document(_Document, read, source=str(path))
    except ConfigError as error:
        raise ConfigError(f"{error}; {_ANEW}") from None
