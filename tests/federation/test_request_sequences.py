"""Any sequence of requests: one masked vector for each round at most, within the plan, and no word in the open."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import BadMessage, Refusal, RoundVoid
from fedmarket.federation.messages import Request, Update
from fedmarket.federation.party import Party
from fedmarket.privacy.budget import Spending

ON = None
"""Go on by the book: the next step of the open round, or the next round."""

ASK = st.tuples(
    st.integers(-1, 8),
    st.sampled_from((*SECURE, "sum")),
    st.sampled_from(["right", "right", "stale", "cut", "none"]),
    st.integers(0, 2),
)


class Adversary:
    """A coordinator that plays all other parties by the book where that gets it on, and asks for what it likes."""

    def __init__(self, world, member) -> None:
        self.world, self.member, self.terms = world, member, member.party.terms
        moved = world.model(self.terms, parameters=np.full(5, 0.5))
        self.models = [world.model(self.terms), moved, None]
        self.circle, self.opened, self.packets = None, None, [b""]
        self.sent: list[Update] = []

    def request(self, number: int, step: str, packet: str, which: int) -> Request:
        with suppress(ValueError, RoundVoid, KeyError):  # that step is not due
            self.packets.append(self.circle.packet(step) if self.circle else b"")
        right, stale = self.packets[-1], self.packets[len(self.packets) // 2]
        content = {"right": right, "stale": stale, "cut": right[:-1], "none": b""}[packet]
        model = self.models[which]
        return Request(
            run=self.world.run,
            round_number=number,
            phase=self.world.phase_of(self.terms, number),
            step=step,
            model=model,
            packet=content,
        )

    def by_the_book(self) -> Request:
        due = self.circle.server._step if self.circle else len(SECURE)
        if due == len(SECURE):
            return self.request(self.member.state.last_round + 1, "advertise", "right", 0)
        return self.request(self.opened.round_number, SECURE[due], "right", 0)

    def ask(self, request: Request) -> None:
        try:
            update = self.member.answer(request)
        except (BadMessage, Refusal):
            if request.step != "advertise" and not self.member.state.open:
                self.circle = None  # the round is over
            return
        self.sent.append(update)
        if request.step == "advertise":
            self.circle, self.opened = self.world.circle(self.member, request), request
        try:
            if request.step == "mask":
                self.circle.bind(request.inputs)
            self.circle.take(update)
        except (ValueError, BadMessage, Refusal, RoundVoid):
            self.circle = None


@settings(max_examples=60)
@given(ops=st.lists(st.just(ON) | st.just(ON) | ASK, max_size=40))
@example(ops=[ON] * 40)
def test_no_sequence_of_requests_gets_more_than_one_masked_vector_a_round(world, ops):
    member = world.member("a")
    adversary, computed, paid = Adversary(world, member), [], Party._paid_words

    def watched(*args):
        state, words = paid(*args)
        computed.append(words_to_bytes(words))
        return state, words

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Party, "_paid_words", watched)
        for op in ops:
            adversary.ask(adversary.by_the_book() if op is ON else adversary.request(*op))

    sent, terms = adversary.sent, member.party.terms
    for step in SECURE:
        rounds = [update.round_number for update in sent if update.step == step]
        assert rounds == sorted(set(rounds)), step
    assert {update.step for update in sent} <= set(SECURE)

    masked = [update for update in sent if update.step == "mask"]
    spent = member.state.spending.releases()
    for mechanism in terms.plan.mechanisms:
        left = [update for update in masked if terms.phase_of(update.round_number) == mechanism.phase]
        assert len(left) * terms.releases_in(mechanism.phase) <= spent[mechanism.phase] <= mechanism.releases

    assert len(computed) >= len(masked)
    for words in computed:
        for start in range(0, len(words) - 8, 4):
            assert not any(words[start : start + 8] in update.content for update in sent)

    if ops == [ON] * 40:  # by the book it is a whole run
        assert [update.step for update in sent] == [*SECURE] * terms.rounds
        assert spent == Spending(centre=1, update=6, calibrate=3, evaluate=1).releases()


def test_a_word_in_the_open_would_be_found(world):
    """What the search above looks for is there where nothing is masked."""
    ideal, secure = world.member("a", secagg="ideal"), world.member("a")
    _, request, _ = world.follow(secure, 1, until="mask")
    words = world.released(world.member("a"), 1).tobytes()
    assert words[4:12] in ideal.answer(world.request(ideal.party.terms, 1)).content
    assert words[4:12] not in secure.answer(request).content
