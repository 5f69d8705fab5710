"""The rounds that are open: one that is worked on and, while it ends, the one that begins.

The keys of a round depend on nothing that the round before it gives. So they are agreed while that one ends: the first
two steps of a round under secure aggregation travel with the last two of the round before, and each round after the
first costs three exchanges. ``docs/reference/secure-aggregation.md`` says why that changes nothing for anybody.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from fedmarket.aggregation.steps import ENDING, PREPARING, Step
from fedmarket.aggregation.summation import RoundSum
from fedmarket.errors import BadMessage, RoundVoid


@dataclass(slots=True)
class OpenRound:
    """One round on its way through its steps.

    Attributes:
        void: why it gives no sum; empty as long as it may.
    """

    number: int
    sum: RoundSum
    place: int = 0
    void: str = ""

    @property
    def step(self) -> Step:
        """The step that is due, the last one where none is."""
        return self.sum.steps[min(self.place, len(self.sum.steps) - 1)]

    @property
    def over(self) -> bool:
        """Whether it is void or all its steps are closed."""
        return bool(self.void) or self.place == len(self.sum.steps)

    def close_step(self) -> None:
        """End the step that is due; a round that then has too few parties is void."""
        try:
            self.sum.close(self.step)
            self.place += 1
        except RoundVoid as void:
            hint = f" (may be caused by {', '.join(self.sum.suspects)})" if self.sum.suspects else ""
            self.void = f"{void}{hint}"


@dataclass(slots=True, kw_only=True)
class Rounds:
    """A run's rounds in their order; at most two are open, beside those that failed before it was their turn.

    Attributes:
        total: of the run.
        begin: opens the round of this number.
        begun: how many were opened so far: parties may have entered them.
    """

    total: int
    begin: Callable[[int], RoundSum]
    begun: int = 0
    _open: list[OpenRound] = field(default_factory=list, repr=False)
    _asked: list[OpenRound] = field(default_factory=list, repr=False)

    @property
    def first(self) -> OpenRound | None:
        """The round that is worked on; None between two rounds."""
        return self._open[0] if self._open else None

    @property
    def number(self) -> int:
        """Of the first round that is open, or else of the one that is due; :attr:`total` when all are over."""
        return self._open[0].number if self._open else self.begun

    @property
    def finished(self) -> bool:
        """Whether all rounds are over."""
        return self.number >= self.total

    def due(self) -> list[OpenRound]:
        """Return the rounds whose steps are due in the next exchange; opens what is to be opened."""
        if not self._open:
            self._begin()
        if self._open[0].step in ENDING and all(one.void for one in self._open[1:]) and self.begun < self.total:
            self._begin()
        first, *others = self._open
        self._asked = [first, *(one for one in others if not one.void and one.step in PREPARING)]
        return list(self._asked)

    def asked(self, number: int, step: Step) -> OpenRound:
        """Return the round to which an answer belongs.

        Raises:
            BadMessage: if that was not asked for in this exchange.
        """
        if not self._asked:
            raise BadMessage("no round is open")
        for one in self._asked:
            if one.number == number:
                if one.step != step:
                    raise BadMessage(f"for the step {step}, but {one.step} is due")
                return one
        raise BadMessage(f"for round {number}, but round {self.number} is open")

    def close_steps(self) -> None:
        """End the steps that were asked for.

        Raises:
            BadMessage: if none was.
        """
        if not self._asked:
            raise BadMessage("no round is open")
        for one in self._asked:
            one.close_step()
        self._asked = []

    def next_over(self) -> OpenRound | None:
        """Return the first round if it is over; it is still the first until :meth:`leave`."""
        return self._open[0] if self._open and self._open[0].over else None

    def leave(self) -> None:
        """Go on with the round after the first."""
        del self._open[0]

    def _begin(self) -> None:
        self._open.append(OpenRound(self.begun, self.begin(self.begun)))
        self.begun += 1
