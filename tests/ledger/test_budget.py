"""What a ledger says was spent: that of the plan for one run, composed over runs, and a cap that holds."""

import math
from dataclasses import replace
from itertools import permutations

import pytest

from fedmarket.errors import BadMessage, PlanError, Refusal
from fedmarket.ledger.canonical import decimal
from fedmarket.ledger.planned import planned
from fedmarket.ledger.replay import replay
from fedmarket.ledger.spending import events_of
from fedmarket.privacy import accountant
from fedmarket.privacy.accountant import gaussian_epsilon
from fedmarket.privacy.mechanism import Grid, Mechanism
from fedmarket.privacy.plan import PrivacyPlan

CENTRE = Mechanism(phase="centre", clip_norm=3.0, noise_multiplier=9.0, sample_rate=1.0, releases=1, length=9)
UPDATE = Mechanism(phase="update", clip_norm=1.0, noise_multiplier=6.0, sample_rate=1.0, releases=8, length=9)
EVALUATE = Mechanism(phase="evaluate", clip_norm=1.0, noise_multiplier=4.0, sample_rate=1.0, releases=1, length=9)
SAMPLED = replace(UPDATE, noise_multiplier=1.5, sample_rate=0.1)
GRID = Grid(resolution=2.0**-20, shares=3, slack=1.1e-6)


def plan_of(*mechanisms, adjacency="add-or-remove-one"):
    return PrivacyPlan(unit="row", adjacency=adjacency, delta=1e-5, generator="operating-system", mechanisms=mechanisms)


@pytest.fixture
def reserved(chain, known):
    """A ledger in which all of each plan was reserved, every plan in a run of its own, the first in data set A."""

    def made(*plans, **opened):
        begun = chain().add("opened", **opened)
        for number, plan in enumerate(plans):
            run = f"{number:032x}"
            document = planned(plan, assumed_colluders=1, minimum_survivors=4).model_dump()
            begun.add("joined", run=run, plan=document)
            for place, mechanism in enumerate(plan.mechanisms):
                begun.add("reserved", run=run, round=place, phase=mechanism.phase, count=mechanism.releases)
        return begun

    return made


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(CENTRE, UPDATE, EVALUATE),
        plan_of(UPDATE, replace(EVALUATE, noise_multiplier=0.9)),
        plan_of(CENTRE, UPDATE, adjacency="replace-one"),
        plan_of(replace(CENTRE, grid=GRID), replace(UPDATE, grid=GRID), replace(EVALUATE, grid=GRID)),
        plan_of(CENTRE, SAMPLED, EVALUATE),
    ],
)
def test_a_whole_run_spends_what_its_plan_says(reserved, plan):
    found = replay(reserved(plan, adjacency=plan.adjacency).envelopes).spent()
    assert found == plan.spent()
    assert len(found.accountants) == 2


def test_nothing_reserved_is_nothing_spent(chain):
    assert replay(chain("opened", "joined").envelopes).spent().epsilon == 0.0


def test_runs_on_one_data_set_are_composed(reserved):
    first, second = plan_of(CENTRE, UPDATE), plan_of(replace(UPDATE, noise_multiplier=5.0))
    mu = math.sqrt(1 / 81 + 8 / 36 + 8 / 25)
    found = replay(reserved(first, second).envelopes).spent()
    assert found.accountants["exact"] == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-9)
    assert found.epsilon < first.spent().epsilon + second.spent().epsilon


def test_equal_mechanisms_of_two_runs_are_one_event(reserved):
    state = replay(reserved(plan_of(UPDATE), plan_of(UPDATE)).envelopes)
    counts = {found.mechanism: 8 for found in state.counting()}
    assert len(state.counting()) == 2
    assert len(events_of(counts)) == 1


def test_a_cap_that_is_exactly_the_plans_epsilon_is_kept_to_the_last_release(chain, known):
    # Equal noise in two phases: as one event the accountants would find other last digits.
    plan = plan_of(CENTRE, UPDATE, replace(CENTRE, phase="calibrate"))
    cap = decimal(plan.spent().epsilon)
    begun = chain().add("opened", cap=cap)
    begun.add("joined", plan=planned(plan, assumed_colluders=1, minimum_survivors=4).model_dump())
    begun.add("reserved", phase="centre", cap=cap).add("reserved", phase="update", count=8, round=1, cap=cap)
    assert replay(begun.envelopes).after(known.run, 2, phase="calibrate", count=1) == plan.spent()


def test_the_order_of_runs_is_no_matter(reserved):
    runs = (plan_of(CENTRE), plan_of(UPDATE))
    first, second = (replay(reserved(*plans).envelopes).spent().epsilon for plans in permutations(runs))
    assert first == pytest.approx(second, rel=1e-6)


def test_rows_held_out_pay_for_themselves(reserved):
    apart = replay(reserved(plan_of(UPDATE, EVALUATE)).envelopes).spent()
    assert apart.epsilon == replay(reserved(plan_of(UPDATE)).envelopes).spent().epsilon
    last = replay(reserved(plan_of(UPDATE, replace(EVALUATE, noise_multiplier=1.0))).envelopes).spent()
    assert last.accountants["exact"] == pytest.approx(gaussian_epsilon(1.0, 1e-5), rel=1e-9)


def test_what_came_from_another_data_set_counts_for_rows_of_both_kinds(reserved, known):
    begun = reserved(plan_of(UPDATE, EVALUATE)).add("data-replaced", overlap=True)
    mu = math.sqrt(8 / 36 + 1 / 16)
    assert replay(begun.envelopes).spent().accountants["exact"] == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-9)
    assert replay(begun.envelopes).spent(data_set=known.A) == plan_of(UPDATE, EVALUATE).spent()


@pytest.mark.parametrize("phase", ["update", "evaluate"])
def test_a_row_may_have_been_trained_on_before_and_be_held_out_now_or_the_other_way(reserved, known, phase):
    begun = reserved(plan_of(UPDATE, EVALUATE)).add("data-replaced", overlap=True)
    later = plan_of(replace(EVALUATE, phase=phase, noise_multiplier=1.0))
    document = planned(later, assumed_colluders=1, minimum_survivors=4).model_dump()
    begun.add("joined", run=known.other, data_set=known.B, plan=document)
    begun.add("reserved", run=known.other, phase=phase)
    mu = math.sqrt(8 / 36 + 1 / 16 + 1)
    assert replay(begun.envelopes).spent().accountants["exact"] == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-9)


def test_what_is_given_back_is_not_spent_and_what_was_lost_is(chain):
    begun = chain("opened", "joined", "reserved")
    whole = replay(begun.envelopes).spent()
    assert whole.epsilon > 0
    assert replay(chain("opened", "joined", "reserved").add("voided", left=True).envelopes).spent() == whole
    assert replay(begun.add("voided").envelopes).spent().epsilon == 0.0


def test_delta_can_be_another_than_the_ledgers(reserved):
    state = replay(reserved(plan_of(UPDATE)).envelopes)
    assert state.spent(1e-7).epsilon > state.spent().epsilon


def test_the_entrys_own_figures_are_not_believed(chain):
    lying = [{"accountant": "pld", "version": "1", "epsilon": "0.0"}]
    honest = replay(chain("opened", "joined", "reserved").envelopes)
    assert replay(chain("opened", "joined").add("reserved", figures=lying).envelopes).spent() == honest.spent()


def test_the_next_reservation_is_weighed_before_it_is_made(reserved, chain, known):
    begun = chain().add("opened", cap="1.5").add("joined").add("reserved", count=1, cap="1.5")
    state = replay(begun.envelopes)
    before = state.spent()
    found = state.after(known.run, 1, phase="update", count=1)
    assert before.epsilon < found.epsilon < 1.5
    assert state.spent() == before
    begun.add("reserved", round=1, count=1, cap="1.5")
    assert found.accountants == {"exact": replay(begun.envelopes).spent().accountants["exact"]}


def test_the_cap_is_kept_and_the_refusal_says_what_is_left(chain, known):
    state = replay(chain().add("opened", cap="1.5").add("joined").add("reserved", cap="1.5").envelopes)
    with pytest.raises(Refusal) as caught:
        state.after(known.run, 1, phase="update", count=9)
    spent = state.spent().epsilon
    said = str(caught.value)
    assert said.startswith(f"budget: 9 release(s) of update would bring epsilon from {spent:.4f} to 3.")
    assert said.endswith(f"; the cap is 1.5, {1.5 - spent:.4f} left")


def test_the_cap_is_kept_over_runs_together(chain, known):
    begun = chain().add("opened", cap="3.5").add("joined").add("reserved", count=10, cap="3.5")
    begun.add("joined", run=known.other)
    state = replay(begun.envelopes)
    assert state.spent().epsilon < 3.5
    with pytest.raises(Refusal, match=r"the cap is 3\.5"):
        state.after(known.other, 0, phase="update", count=1)
    assert state.after(known.other, 0, phase="evaluate", count=1).epsilon < 3.5


def test_the_plan_is_kept_whatever_the_cap(chain, known):
    state = replay(chain().add("opened", cap="1000.0").add("joined").envelopes)
    with pytest.raises(Refusal, match=r"11 more release\(s\) of update asked, 10 left of 10"):
        state.after(known.run, 0, phase="update", count=11)
    with pytest.raises(Refusal, match=r"0 more release\(s\)"):
        state.after(known.run, 0, phase="update", count=0)
    with pytest.raises(BadMessage, match="not joined"):
        state.after(known.other, 0, phase="update", count=1)


def test_where_the_second_accountant_fails_nothing_is_claimed(reserved, monkeypatch):
    def failed(*_):
        raise PlanError("the PRV accountant failed (ValueError); no epsilon is claimed")

    state = replay(reserved(plan_of(SAMPLED)).envelopes)
    monkeypatch.setattr(accountant, "prv_epsilon", failed)
    with pytest.raises(PlanError, match="PRV accountant failed"):
        state.spent()


@pytest.mark.parametrize("plan", [plan_of(CENTRE, UPDATE, EVALUATE), plan_of(CENTRE, SAMPLED, EVALUATE)])
def test_a_reservation_near_the_cap_is_weighed_by_both_accountants_and_others_by_one(chain, plan):
    whole = plan.spent()
    document = planned(plan, assumed_colluders=1, minimum_survivors=4).model_dump()

    def asked(cap):
        begun = chain().add("opened", cap=cap).add("joined", plan=document).add("reserved", phase="centre", cap=cap)
        state = replay(begun.envelopes)
        return state.after("1" * 32, 1, phase="update", count=8)

    first = "pld" if "prv" in whole.accountants else "exact"
    assert asked(decimal(whole.epsilon)) == whole
    assert asked("8.0").accountants == {first: whole.accountants[first]}
    with pytest.raises(Refusal, match="would bring epsilon"):
        asked(decimal(whole.epsilon - 1e-6))


@pytest.mark.parametrize("update", [UPDATE, SAMPLED])
def test_a_run_that_the_cap_does_not_bear_is_refused_as_a_whole(chain, known, update):
    plan = plan_of(CENTRE, update, EVALUATE)
    document = planned(plan, assumed_colluders=1, minimum_survivors=4)

    def opened(cap):
        return replay(chain().add("opened", cap=cap).envelopes)

    state = opened(decimal(plan.spent().epsilon))
    assert state.need_affordable(document) == plan.spent()
    assert (state.runs, state.size) == ({}, 1)
    with pytest.raises(Refusal) as caught:
        opened("0.25").need_affordable(document)
    said = str(caught.value)
    assert said.startswith(f"budget: this run would bring epsilon from 0.0000 to {plan.spent().epsilon:.4f}; ")
    assert said.endswith("the cap is 0.25, 0.2500 left")


def test_a_run_is_weighed_with_all_that_counts_and_rows_held_out_for_themselves(reserved, known):
    begun = reserved(plan_of(UPDATE, EVALUATE))
    state = replay(begun.envelopes)

    def exact(*mechanisms):
        document = planned(plan_of(*mechanisms), assumed_colluders=1, minimum_survivors=4)
        return state.need_affordable(document).accountants["exact"]

    assert exact(UPDATE, EVALUATE) == pytest.approx(gaussian_epsilon(math.sqrt(16 / 36), 1e-5), rel=1e-9)
    strong = replace(EVALUATE, noise_multiplier=1.0)
    assert exact(strong) == pytest.approx(gaussian_epsilon(math.sqrt(1 + 1 / 16), 1e-5), rel=1e-9)
    state = replay(begun.add("data-replaced", overlap=True).envelopes)
    mu = math.sqrt(8 / 36 + 1 / 16 + 8 / 36)
    assert exact(UPDATE, EVALUATE) == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-9)


def test_a_plan_that_cannot_be_joined_is_not_affordable(chain, known):
    state = replay(chain("opened").envelopes)
    other = planned(plan_of(UPDATE, adjacency="replace-one"), assumed_colluders=1, minimum_survivors=4)
    with pytest.raises(BadMessage, match="unit and adjacency"):
        state.need_affordable(other)
