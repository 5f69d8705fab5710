"""One attempt of a hostile operator, and what came back.

What comes back as anything but the refusal that is expected, a success or an error that nobody foresaw, got through.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fedmarket.errors import FedmarketError

_LONGEST = 110


@dataclass(frozen=True)
class Tried:
    """One attempt: what it was, what came back, and whether that is what should come back."""

    what: str
    back: str
    good: bool
    honest: bool = False

    @property
    def line(self) -> str:
        """For a person."""
        words = ("BROKEN", "as agreed") if self.honest else ("GOT THROUGH", "refused")
        word = words[self.good]
        return f"{word:<12} {self.what:<52} {self.back}"


def tried(what: str, expected: str, act: Callable[[], object]) -> Tried:
    """Do it, and hold what comes back against the ``expected`` words of a refusal."""
    try:
        back = f"no refusal, but {act()!r}"
    except (OSError, FedmarketError) as error:
        back = str(error) if isinstance(error, FedmarketError) else f"{type(error).__name__}: {error.strerror or error}"
        return Tried(what, back[:_LONGEST], re.search(expected, back) is not None)
    except Exception as error:
        back = f"{type(error).__name__}: {error}"
    return Tried(what, back[:_LONGEST], False)
