"""A party's answer to a frame, as another frame: the one place where bytes from outside meet a party.

What goes wrong becomes a refusal: with its reason where that is about messages, roster, budget or settings, else with
the type of the error alone, for what is wrong with rows stays at home.
"""

from collections.abc import Callable

from fedmarket.errors import BadMessage, ProtocolError, UsageError
from fedmarket.federation.messages import (
    Acceptance,
    Closing,
    Invitation,
    Refused,
    Replies,
    Request,
    Requests,
    Told,
    Update,
)
from fedmarket.federation.party import Keep, Party, PartyState
from fedmarket.federation.wire import decoded, encoded

JOIN, CLOSE = "join", "close"
"""Actions beside the steps of a round."""

Question = Invitation | Requests | Closing
Answer = Acceptance | Replies | Told


def question_in(action: str, frame: bytes) -> Question:
    """Return what is asked in a frame.

    Args:
        action: ``join``, ``close`` or the step of the first request, as the outer envelope has it.
        frame: from the coordinator.

    Raises:
        BadMessage: if the frame is none, or asks for something else than the action.
    """
    if action == JOIN:
        return decoded(Invitation, frame)
    if action == CLOSE:
        return decoded(Closing, frame)
    found = decoded(Requests, frame)
    if found.requests[0].step != action:
        raise BadMessage(f"the step {found.requests[0].step} came as another kind of message")
    if len({request.run for request in found.requests}) > 1:
        raise BadMessage("run: expected one in an exchange")
    return found


def answered(
    question: Question,
    *,
    party: Party,
    state: PartyState,
    keep: Keep,
    need_allowed: Callable[[Request], None] = lambda _: None,
) -> Answer:
    """Return the party's answer to what was asked of it; see :class:`fedmarket.federation.party.Party`.

    Of several requests each is answered or refused for itself: the round that ends does not depend on the next one.

    Args:
        question: from the coordinator.
        party: who answers.
        state: what the party remembers of the run.
        keep: stores what it is to remember, before anything that depends on it leaves.
        need_allowed: raises a Refusal of a request that the party does not want to answer.

    Raises:
        ProtocolError: if the party refuses to join or to close.
        UsageError: if the party's own documents do not let it answer.
    """
    if isinstance(question, Invitation):
        return party.join(state, question, keep=keep)
    if isinstance(question, Closing):
        return party.close(state, question)

    def kept(now: PartyState) -> None:
        nonlocal state
        keep(now)
        state = now

    def reply(request: Request) -> Update | Refused:
        try:
            need_allowed(request)
            return party.answer(state, request, keep=kept)
        except ProtocolError as error:
            return Refused(reason=str(error))

    return Replies(replies=tuple(map(reply, question.requests)))


def refusal(error: Exception) -> bytes:
    """Return the frame that says why there is no answer."""
    told = isinstance(error, ProtocolError | UsageError)
    return encoded(Refused(reason=str(error) if told else f"failed: {type(error).__name__}"))
