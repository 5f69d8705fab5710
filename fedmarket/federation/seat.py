"""A party's seat in secure aggregation: its identity and its own roster, and the answers it gives with them.

Seats are set once, before a run: the roster is agreed out of band, and no message changes it. :func:`rehearsal_roster`
makes them for a simulation, where one machine plays all parties.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.state import PartyState
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.arrays import WordArray
from fedmarket.errors import ConfigError, Refusal, UsageError
from fedmarket.federation.identity import Identity, load_identity, new_identity, save_identity
from fedmarket.federation.roster import Member, Roster, load_roster, new_roster
from fedmarket.files import write_text

ROSTER_FILE = "roster.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One party in secure aggregation.

    Raises:
        ConfigError: if the identity is not in the roster.
    """

    identity: Identity = field(repr=False)
    roster: Roster = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an identity that nobody would believe."""
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


def load_seat(roster_path: Path, name: str) -> Seat:
    """Return the seat of the simulated party ``name`` in the folder that :func:`rehearsal_roster` made.

    Raises:
        ConfigError: if roster or identity are missing or do not fit together.
    """
    roster = load_roster(roster_path)
    place = roster.index(name)
    if place is None:
        raise ConfigError(f"{roster_path}: {name} is not in this roster")
    return Seat(identity=load_identity(_identity_file(roster_path.parent, place)), roster=roster)


def rehearsal_roster(folder: Path, names: Iterable[str], *, minimum_survivors: int) -> Path:
    """Make fresh identities and the roster for simulated parties in ``folder``, and return the roster's path.

    One machine then holds every key: good for a simulation and for nothing else.

    Raises:
        ConfigError: if the names or their number break a rule of rosters.
        UsageError: if the folder holds identities already, or cannot be written.
    """
    identities, roster = _rehearsed(names, minimum_survivors)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror or error})") from None
    for place, name in enumerate(roster.names):
        save_identity(identities[name], _identity_file(folder, place))
    path = folder / ROSTER_FILE
    write_text(path, roster.to_toml())
    return path


def need_seats_for(names: Iterable[str], *, minimum_survivors: int) -> None:
    """Refuse parties for whom :func:`rehearsal_roster` could make no roster.

    Raises:
        ConfigError: with the rule that they break.
    """
    _rehearsed(names, minimum_survivors)


def _rehearsed(names: Iterable[str], minimum_survivors: int) -> tuple[dict[str, Identity], Roster]:
    identities = {name: new_identity() for name in names}
    members = [Member(name=name, public_key=identity.public_key) for name, identity in identities.items()]
    try:
        return identities, new_roster(members, minimum_survivors=minimum_survivors)
    except ConfigError as error:
        raise ConfigError(
            f"aggregation.secagg: secure aggregation is not possible here ({error}); "
            "change that, or sum in the open with aggregation.secagg=ideal"
        ) from None


def _identity_file(folder: Path, place: int) -> Path:
    return folder / f"{place:02}.pem"
