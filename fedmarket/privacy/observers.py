"""Who might look at a run, and how many shares of the noise each of them cannot know."""

from dataclasses import dataclass

WORDS = {
    "public": "whoever has the released model",
    "server": "the server, which sees the sum of each round",
    "party": "another party, which knows its own share of the noise",
    "coalition": "the server with the assumed number of colluding parties",
    "bare": "whoever would see one party's updates unmasked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """One who looks.

    Attributes:
        name: a key of :data:`WORDS`.
        missed: how many shares of noise in a sum it cannot know.
    """

    name: str
    missed: int

    @property
    def words(self) -> str:
        """Who that is."""
        return WORDS[self.name]


def observers(*, minimum_survivors: int, colluders: int, masked: bool) -> tuple[Observer, ...]:
    """Return the observers of sums of at least ``minimum_survivors`` parties, of whom ``colluders`` tell their noise.

    Where updates are not ``masked`` the server sees each party's own, with one share of noise.

    >>> [observer.missed for observer in observers(minimum_survivors=7, colluders=2, masked=True)]
    [7, 7, 6, 5, 1]
    """
    missed = {"public": minimum_survivors, "server": minimum_survivors, "party": minimum_survivors - 1}
    missed |= {"coalition": minimum_survivors - colluders, "bare": 1}
    if not masked:
        missed |= {"server": 1, "coalition": 1}
    return tuple(Observer(name=name, missed=shares) for name, shares in missed.items())
