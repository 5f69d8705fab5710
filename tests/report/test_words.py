import pytest

from fedmarket.report import words


def test_the_headline_says_what_was_promised_and_what_it_cost(results):
    results["loss"]["pooled"].update(mean=0.0071, upper_95=0.0112)
    results["loss"]["pooled_best"].update(mean=0.0189)
    assert words.headline(results) == (
        "With epsilon 1.00 per customer, the 12 parties' joint model loses 0.7 % of AUC against the pooled model "
        "(95 % upper bound 1.1 %) and 1.9 % against the best pooled model of any class."
    )


def test_a_negative_loss_is_called_a_gain(results):
    results["loss"]["pooled"].update(mean=-0.0042, upper_95=0.002)
    results["loss"]["pooled_best"].update(mean=0.0189)
    assert "gains 0.4 % of AUC against the pooled model (95 % upper bound of the loss 0.2 %)" in words.headline(results)
    assert "and loses 1.9 % against the best pooled" in words.headline(results)


def test_a_loss_that_rounds_to_nothing_is_not_called_a_gain(results):
    results["loss"]["pooled"]["mean"] = -0.0001
    assert "loses 0.0 % of AUC" in words.headline(results)


def test_seeded_noise_is_named_in_the_headline(results):
    assert "protects nobody" not in words.headline(results)
    results["plan"]["generator"] = "seeded-for-tests"
    assert words.headline(results).startswith("With seeded noise that protects nobody, sized for epsilon 1.00")


def test_the_headline_takes_the_largest_epsilon_and_never_rounds_it_down(results):
    results["privacy"]["student"]["epsilon"] = 2.3401
    assert words.headline(results).startswith("With epsilon at most 2.35 per customer")


def loses(ranking, **means):
    for reference, mean in means.items():
        ranking["loss"][reference].update(mean=mean, upper_95=mean + 0.004)


def test_the_headline_of_a_value_says_what_past_spend_would_have_done(of_value):
    loses(of_value, pooled=0.0004, pooled_best=0.0004, past_spend=-0.0446)
    assert words.headline(of_value) == (
        "With epsilon 1.00 per customer, the 12 parties' joint model loses 0.0 % of normalised Gini against the pooled "
        "model (95 % upper bound 0.4 %) and 0.0 % against the best pooled model of any class, and gains 4.5 % over "
        "past spend times a constant."
    )


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.0211, "and is 2.1 % BELOW past spend times a constant."),
        (0.0004, "and gains nothing over past spend times a constant."),
        (-0.0004, "and gains nothing over past spend times a constant."),
        (-0.0211, "and gains 2.1 % over past spend times a constant."),
    ],
)
def test_a_model_below_past_spend_is_said_to_be(of_value, loss: float, said: str):
    loses(of_value, past_spend=loss)
    assert words.headline(of_value).endswith(said)


@pytest.mark.parametrize(
    ("points", "said"), [(-0.2612, "gains 0.2612 points over"), (0.0107, "is 0.0107 points BELOW")]
)
def test_where_past_spend_has_no_share_the_headline_counts_points(of_value, points: float, said: str):
    of_value["loss"]["past_spend"].update(mean=None, upper_95=None, per_seed=None)
    of_value["loss"]["past_spend"]["points"]["mean"] = points
    assert words.headline(of_value).endswith(f", and {said} past spend times a constant.")


def test_a_bound_without_a_share_is_in_points(of_value):
    of_value["loss"]["pooled"].update(mean=0.02, upper_95=None)
    of_value["loss"]["pooled"]["points"]["upper_95"] = 0.031
    assert "loses 2.0 % of normalised Gini against the pooled model (95 % upper bound 0.0310 points)" in words.headline(
        of_value
    )


def test_without_past_spend_the_headline_does_not_speak_of_it(of_value):
    del of_value["loss"]["past_spend"]
    assert words.headline(of_value).endswith("against the best pooled model of any class.")


def test_response_and_value_have_a_sentence_each(of_both):
    loses(of_both, pooled=0.0071, pooled_best=0.0189)
    loses(of_both["value"]["ranking"], pooled=0.013, pooled_best=0.024, past_spend=0.01)
    response, value = words.headline(of_both).split(". Its ranking by value ")
    assert "loses 0.7 % of AUC" in response
    assert "past spend" not in response
    assert value.startswith("loses 1.3 % of normalised Gini against the pooled model")
    assert value.endswith("is 1.0 % BELOW past spend times a constant.")


def test_customers_who_did_it_are_buyers_where_only_a_value_is_predicted(results, of_value, of_both):
    assert "11.3 % buyers" in words.setting(of_value)
    for document in (results, of_both):
        assert "11.3 % responses" in words.setting(document)


@pytest.mark.parametrize(("seeds", "said"), [(1, "One seed."), (3, "Means over 3 seeds.")])
def test_the_number_of_seeds_is_said(results, seeds, said):
    arm = results["arms"]["federated_dp"]
    arm["per_seed"] = arm["per_seed"][:seeds]
    assert said in words.setting(results)


def test_the_spread_over_draws_of_noise_stands_beside_the_headline(results):
    results["loss"]["pooled"].update(per_seed=[0.0059, 0.0028, 0.0033])
    assert words.spread_sentence(results) == (
        "Each of the 3 seeds is one split of the rows and one draw of noise: the loss of AUC against the pooled model "
        "is 0.28 %, 0.33 % and 0.59 %, and the standard error of its mean 0.10 %. Bounds and intervals count seeds and "
        "test rows, but not that all seeds share one table."
    )
    results["loss"]["pooled"].update(per_seed=[0.01, -0.002, 0.004, 0.0])
    assert "is -0.20 % to 1.00 %, and the standard error of its mean 0.26 %." in words.spread_sentence(results)


def test_one_seed_is_said_to_tell_nothing_of_another_draw(results):
    results["loss"]["pooled"].update(per_seed=[0.0059])
    said = words.spread_sentence(results)
    assert "is 0.59 %, and what another draw would lose is not known." in said
    assert "standard error" not in said


def test_a_spread_without_a_share_is_in_points(of_value):
    of_value["loss"]["pooled"]["mean"] = None
    of_value["loss"]["pooled"]["points"]["per_seed"] = [0.01, 0.03]
    assert "is 0.0100 points and 0.0300 points, and the standard error of its mean 0.0100 points" in (
        words.spread_sentence(of_value)
    )


def test_parties_without_an_auc_are_not_counted(results):
    results["parties"] = [
        {"alone": 0.7, "alone_dp": 0.6, "joint_dp": 0.8},
        {"alone": 0.9, "alone_dp": 0.6, "joint_dp": 0.8},
        {"alone": None, "alone_dp": None, "joint_dp": None},
    ]
    said = words.parties_sentence(results)
    assert "without privacy at 1 of 2 parties" in said
    assert "same privacy at 2 of 2." in said


def test_a_customer_of_all_parties_spends_the_sum(results):
    for party, spent in results["privacy"].items():
        spent["epsilon"] = 0.5 if party == "student" else 1.0
    assert "11.50 if held by all 12." in words.overlap_sentence(results)


def test_the_best_possible_score_is_said_only_where_it_is_known(results):
    assert words.bayes_sentence(results) is None
    results["data"]["bayes_optimal"] = {"per_seed": [0.9], "mean": 0.91234}
    assert "0.9123" in words.bayes_sentence(results)


def test_arms_keep_their_order_and_unknown_arms_come_last():
    assert words.in_order(["zebra", "federated_dp", "pooled_best"]) == ["pooled_best", "federated_dp", "zebra"]
    assert words.arm_name("new_arm") == "new arm"


def test_a_ledger_that_does_not_hold_is_said_by_each_verdict(results):
    assert "integrity, completeness and promise hold" in words.ledger_sentence(results)
    verdicts = {"integrity": "broken", "completeness": "holds", "promise": "not-established"}
    said = words.ledger_sentence(results | {"ledger": results["ledger"] | {"verdicts": verdicts}})
    assert "NOT all holds: integrity broken, promise not established" in said
