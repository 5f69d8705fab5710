"""A party's answer to a frame, as another frame: the one place where bytes from outside meet a party.

What goes wrong becomes a refusal: with its reason where that is about messages, roster, budget or settings, else with
the type of the error alone, for what is wrong with rows stays at home.
"""

from fedmarket.errors import BadMessage, ProtocolError, UsageError
from fedmarket.federation.messages import Closing, Invitation, Refused, Request
from fedmarket.federation.party import Keep, Party, PartyState
from fedmarket.federation.wire import decoded, encoded

JOIN, CLOSE = "join", "close"
"""Actions beside the steps of a round."""


def answered(action: str, frame: bytes, *, party: Party, state: PartyState, keep: Keep) -> bytes:
    """Return the party's answer to what was asked of it; see :class:`fedmarket.federation.party.Party`.

    Args:
        action: ``join``, ``close`` or the step of a round, as the outer envelope has it.
        frame: from the coordinator.
        party: who answers.
        state: what the party remembers of the run.
        keep: stores what it is to remember, before anything that depends on it leaves.

    Raises:
        ProtocolError: if the frame is none, or the party refuses.
        UsageError: if the party's own documents do not let it answer.
    """
    if action == JOIN:
        return encoded(party.join(state, decoded(Invitation, frame), keep=keep))
    if action == CLOSE:
        return encoded(party.close(state, decoded(Closing, frame)))
    request = decoded(Request, frame)
    if request.step != action:
        raise BadMessage(f"the step {request.step} came as another kind of message")
    return encoded(party.answer(state, request, keep=keep))


def refusal(error: Exception) -> bytes:
    """Return the frame that says why there is no answer."""
    told = isinstance(error, ProtocolError | UsageError)
    return encoded(Refused(reason=str(error) if told else f"failed: {type(error).__name__}"))
