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


@pytest.mark.parametrize(("seeds", "said"), [(1, "One seed."), (3, "Means over 3 seeds.")])
def test_the_number_of_seeds_is_said(results, seeds, said):
    arm = results["arms"]["federated_dp"]
    arm["per_seed"] = arm["per_seed"][:seeds]
    assert said in words.setting(results)


def test_parties_without_an_auc_are_not_counted(results):
    results["parties"] = [
        {"auc_alone": 0.7, "auc_alone_dp": 0.6, "auc_joint_dp": 0.8},
        {"auc_alone": 0.9, "auc_alone_dp": 0.6, "auc_joint_dp": 0.8},
        {"auc_alone": None, "auc_alone_dp": None, "auc_joint_dp": None},
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
