"""A party's seat in secure aggregation: its identity and its own roster, and the answers it gives with them.

Seats are set once, before a run: the roster is agreed out of band, and no message changes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.state import PartyState
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.arrays import WordArray
from fedmarket.errors import ConfigError, Refusal
from fedmarket.federation.identity import Identity
from fedmarket.federation.roster import Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One party in secure aggregation.

    Raises:
        ConfigError: if the identity is not in the roster, or that has too few members for secure aggregation.
    """

    identity: Identity = field(repr=False)
    roster: Roster = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an identity that nobody would believe, and sums that would hide nobody."""
        self.roster.need_maskable()
        if self.roster.index_of_key(self.identity.public_key) is None:
            raise ConfigError("this party's identity is not in its roster")

    @property
    def name(self) -> str:
        """The party's name in the roster."""
        place = self.roster.index_of_key(self.identity.public_key)
        return self.roster.names[place or 0]

    def enter(self, context: RoundContext) -> tuple[bytes, bytes]:
        """Return what to remember of a round just entered, secrets in clear, and the advertisement of its keys."""
        state, message = protocol.advertise(context, self.identity)
        return state.to_bytes(), message

    def resume(self, context: RoundContext, step: Step, memory: bytes) -> PartyState:
        """Return what was to be remembered after the step before ``step``; good for one answer.

        Raises:
            BadMessage: if ``memory`` is of another round.
            Refusal: if another step is due.
        """
        state = PartyState.from_bytes(memory, context=context, identity=self.identity)
        due = SECURE[SECURE.index(state.after) + 1]
        if step != due:
            raise Refusal(f"asked for the step {step}, but {due} is due")
        return state

    def follow(
        self, state: PartyState, step: Step, *, packet: bytes, words: Callable[[], WordArray]
    ) -> tuple[bytes, bytes]:
        """Return what to remember after ``step``, nothing after the last one, and the answer to it.

        Args:
            state: from :meth:`resume`, for this step.
            step: any but ``advertise``.
            packet: what the server sent.
            words: computes the residues (length,) to be masked; called in the step ``mask``, after the packet has been
                found good.

        Raises:
            BadMessage: if the packet is malformed or forged.
            Refusal: if answering could reveal more than the sum.
        """
        match step:
            case "share":
                state, message = protocol.share(state, packet)
            case "mask":
                state, message = protocol.mask(state, packet, words)
            case "consent":
                state, message = protocol.consent(state, packet)
            case "unmask":
                _, message = protocol.unmask(state, packet)
                return b"", message
            case _:
                raise Refusal(f"no answer to the step {step}")
        return state.to_bytes(), message
