"""Results in words: the headline, the sentences below it, and how numbers are written.

The words follow the numbers: an arm that gains is said to gain, noise from a seeded generator is said to protect
nobody, and an epsilon is never rounded down.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

ARM_NAMES = {
    "pooled_best": "Best pooled model of any class",
    "pooled": "Pooled",
    "federated": "Federated",
    "federated_schedule": "Federated, private schedule",
    "federated_clipped": "Federated, clipped",
    "federated_rounded": "Federated, rounded",
    "pooled_dp": "Pooled with privacy",
    "federated_dp": "Federated with privacy",
    "local_only": "Each party alone",
    "local_only_dp": "Each party alone with privacy",
    "past_spend": "Past spend times a constant",
    "buyers": "BG/NBD, buy till you die",
    "public_start": "Public start, untrained",
}
"""Arms in the order in which they are shown; an arm that is not here is shown last, under its own name."""

STEP_NAMES = {
    "federation": "Federating",
    "schedule": "Private schedule",
    "clipping": "Clipping",
    "rounding": "Rounding to integers",
    "noise": "Noise",
}

METRIC_NAMES = {"auc": "AUC", "gini": "normalised Gini"}

SEEDED_BANNER = "NOT PRIVATE: noise came from a seeded generator"


def headline(results: dict[str, Any]) -> str:
    """Return the result in words: what was promised to a customer and what that cost.

    Where a response and a value are predicted, a second sentence is of the value.

    Guarantees:
        Losses are called losses and gains gains, after rounding; a value that ranks below past spend is said to; the
        epsilon is the largest of any party, rounded up; seeded noise is named as such.
    """
    said = f"{_opening(results)}, the {len(results['parties'])} parties' joint model {_compared(results)}."
    ranking = (results["value"] or {}).get("ranking")
    return f"{said} Its ranking by value {_compared(ranking)}." if ranking else said


def metric_name(metric: str) -> str:
    """Return what a metric is called in a sentence.

    >>> metric_name("gini"), metric_name("auc")
    ('normalised Gini', 'AUC')
    """
    return METRIC_NAMES.get(metric, metric.upper())


def is_private(results: dict[str, Any]) -> bool:
    """Return whether the noise came from the operating system's generator."""
    return bool(results["plan"]["generator"] == "operating-system")


def largest_epsilon(results: dict[str, Any]) -> float:
    """Return the largest epsilon that any party spent."""
    return max(float(spent["epsilon"]) for spent in results["privacy"].values())


def setting(results: dict[str, Any]) -> str:
    """Return how the numbers were made: rows, seeds, privacy parameters."""
    data, arm = results["data"], results["arms"]["federated_dp"]
    seeds = len(arm["per_seed"])
    return (
        f"{data['source']}: {count(data['train_rows'])} training and {count(data['test_rows'])} test rows, "
        f"{percent(data['response_rate'])} {positives(results)}, {data['features']} features. "
        f"{'One seed' if seeds == 1 else f'Means over {seeds} seeds'}. "
        f"Delta {short(results['plan']['delta'])}, neighbours by {results['plan']['adjacency'].replace('-', ' ')}."
    )


def positives(results: dict[str, Any]) -> str:
    """Return what the customers are called who did what is asked for: buyers where nothing but a value is predicted."""
    return "buyers" if results["task"] == "ltv" else "responses"


def parties_sentence(results: dict[str, Any]) -> str:
    """Return for how many parties the joint model is better than their own."""
    parties = [party for party in results["parties"] if party["joint_dp"] is not None]
    alone = [party["joint_dp"] > party["alone"] for party in parties if party["alone"] is not None]
    private = [party["joint_dp"] > party["alone_dp"] for party in parties if party["alone_dp"] is not None]
    return (
        f"On its own customers the joint model ranks better than training alone without privacy at {sum(alone)} of "
        f"{len(alone)} parties, and better than training alone with the same privacy at {sum(private)} of "
        f"{len(private)}."
    )


def bayes_sentence(results: dict[str, Any]) -> str | None:
    """Return how near the joint model is to the best possible one, where the truth is known."""
    bayes = results["data"]["bayes_optimal"]
    if bayes is None:
        return None
    reached = results["arms"]["federated_dp"]["mean"]
    return (
        f"The truth of this market is known: no model can be expected to exceed {score(bayes['mean'])} in "
        f"{metric_name(results['metric'])}; the joint model reaches {score(reached)}."
    )


def spread_sentence(ranking: dict[str, Any]) -> str:
    """Return how far the loss against the pooled model differs from seed to seed, and what its bound counts.

    Args:
        ranking: arms by one metric, with ``loss``: the results, or those of a value beside a response.
    """
    pooled, name = ranking["loss"]["pooled"], metric_name(ranking["metric"])
    in_points = pooled["mean"] is None
    found = sorted(pooled["points"]["per_seed"] if in_points else pooled["per_seed"])
    written = points if in_points else _hundredths
    each = [written(loss) for loss in found]
    if len(found) == 1:
        return (
            f"One seed is one split of the rows and one draw of noise: its loss of {name} against the pooled model is "
            f"{each[0]}, and what another draw would lose is not known. Bounds and intervals count the chance of the "
            "test rows only."
        )
    said = f"{', '.join(each[:-1])} and {each[-1]}" if len(found) <= 3 else f"{each[0]} to {each[-1]}"
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return (
        f"Each of the {len(found)} seeds is one split of the rows and one draw of noise: the loss of {name} against "
        f"the pooled model is {said}, and the standard error of its mean {written(error)}. Bounds and intervals count "
        "seeds and test rows, but not that all seeds share one table."
    )


def overlap_sentence(results: dict[str, Any]) -> str:
    """Return what a customer of several parties spends."""
    total = sum(float(spent["epsilon"]) for spent in results["privacy"].values())
    return (
        "The guarantee is for a customer in one party's table. A customer held by several parties spends the sum of "
        f"their epsilons (and deltas): {upwards(total)} if held by all {len(results['privacy'])}."
    )


def ledger_sentence(results: dict[str, Any], *, bundle: str = "") -> str:
    """Return what an auditor would find in the run's ledgers, and how to look for oneself, where ``bundle`` is."""
    ledger = results["ledger"]
    if ledger is None:
        return "No ledger was kept of this run."
    kept = f"Ledgers of {len(ledger['epsilon'])} parties, {count(ledger['entries'])} signed entries"
    shown = f"and {count(ledger['checkpoints'])} cosigned checkpoints are in {ledger['bundle']}"
    wrong = [f"{name} {found.replace('-', ' ')}" for name, found in ledger["verdicts"].items() if found != "holds"]
    found = f"NOT all holds: {', '.join(wrong)}" if wrong else "integrity, completeness and promise hold"
    return f"{kept} {shown}: {found}. Check it yourself: fedmarket verify {bundle or ledger['bundle']}"


def arm_name(arm: str) -> str:
    """Return the name of an arm for a reader."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def capital(text: str) -> str:
    """Return ``text`` with a capital at its beginning and the rest as it is.

    >>> capital("normalised Gini")
    'Normalised Gini'
    """
    return text[:1].upper() + text[1:]


def in_order(arms: Iterable[str]) -> list[str]:
    """Return arms in the order in which they are shown."""
    known = list(ARM_NAMES)
    return sorted(arms, key=lambda arm: (known.index(arm) if arm in known else len(known), arm))


def score(value: float | None) -> str:
    """Return an AUC or another metric with four digits, without a negative zero; ``-`` where there is none.

    >>> score(0.78125), score(-0.00001), score(None)
    ('0.7812', '0.0000', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{round(value, 4) + 0.0:.4f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, without a negative zero.

    >>> percent(0.0071), percent(-0.0001), percent(-0.02)
    ('0.7 %', '0.0 %', '-2.0 %')
    """
    return f"{round(100 * share, digits) + 0.0:.{digits}f} %"


def thousandths(ratio: float) -> str:
    """Return a ratio near 1 with three decimals.

    >>> thousandths(1.0052)
    '1.005'
    """
    return f"{ratio:.3f}"


def times(factor: float) -> str:
    """Return a lift with two decimals.

    >>> times(3.4821)
    '3.48'
    """
    return f"{factor:.2f}"


def signed(value: float | None) -> str:
    """Return a difference of metrics with its sign.

    >>> signed(0.0123), signed(-0.5), signed(None)
    ('+0.0123', '-0.5000', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:+.4f}"


def money(amount: float) -> str:
    """Return an amount with thousands set apart, without a negative zero; its currency stands beside it.

    >>> money(1234.5), money(-0.001)
    ('1,234.50', '0.00')
    """
    return f"{round(amount, 2) + 0.0:,.2f}"


def points(difference: float) -> str:
    """Return a difference of metrics in their own points.

    >>> points(0.00996)
    '0.0100 points'
    """
    return f"{score(difference)} points"


def upwards(epsilon: float) -> str:
    """Return an epsilon with two decimals, rounded up.

    >>> upwards(1.0), upwards(0.9911), upwards(1.001), upwards(math.inf)
    ('1.00', '1.00', '1.01', 'infinite')
    """
    if not math.isfinite(epsilon):
        return "infinite"
    return f"{math.ceil(100 * epsilon - 1e-9) / 100:.2f}"


def count(number: float) -> str:
    """Return a whole number with thousands set apart.

    >>> count(41188)
    '41,188'
    """
    return f"{round(number):,}"


def short(value: float) -> str:
    """Return a number with three significant digits at most.

    >>> short(2.4279e-05), short(1.0), short(12345.6)
    ('2.43e-05', '1', '1.23e+04')
    """
    return f"{value:.3g}"


def size(number: float) -> str:
    """Return a number of bytes for a reader.

    >>> size(512), size(50_000), size(3_400_000)
    ('512 B', '50.0 kB', '3.4 MB')
    """
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:.0f} B"


def _opening(results: dict[str, Any]) -> str:
    spent = [float(entry["epsilon"]) for entry in results["privacy"].values()]
    most = "" if upwards(min(spent)) == upwards(max(spent)) else "at most "
    if is_private(results):
        return f"With epsilon {most}{upwards(max(spent))} per customer"
    return f"With seeded noise that protects nobody, sized for epsilon {most}{upwards(max(spent))} per customer"


def _compared(ranking: dict[str, Any]) -> str:
    """What the joint model loses or gains against each reference."""
    pooled, best = ranking["loss"]["pooled"], ranking["loss"]["pooled_best"]
    (loss, size), (best_loss, best_size) = _amount(pooled), _amount(best)
    verb, best_verb = _verb(loss), _verb(best_loss)
    against_best = "" if best_verb == verb else f"{best_verb} "
    bound = "95 % upper bound" if verb == "loses" else "95 % upper bound of the loss"
    at_most = points(pooled["points"]["upper_95"]) if pooled["upper_95"] is None else percent(pooled["upper_95"])
    return (
        f"{verb} {size} of {metric_name(ranking['metric'])} against the pooled model ({bound} {at_most}) and "
        f"{against_best}{best_size} against the best pooled model of any class{_beside_past_spend(ranking)}"
    )


def _beside_past_spend(ranking: dict[str, Any]) -> str:
    """Whether the joint model is worth having at all: past spend times a constant needs none."""
    if "past_spend" not in ranking["loss"]:
        return ""
    loss, size = _amount(ranking["loss"]["past_spend"])
    if loss == 0:
        return ", and gains nothing over past spend times a constant"
    return f", and {f'gains {size} over' if loss < 0 else f'is {size} BELOW'} past spend times a constant"


def _amount(loss: dict[str, Any]) -> tuple[float, str]:
    """A loss after rounding, and its size as written: in points where the reference has no share to lose."""
    if loss["mean"] is None:
        return round(loss["points"]["mean"], 4), points(abs(loss["points"]["mean"]))
    return round(100 * loss["mean"], 1), percent(abs(loss["mean"]))


def _hundredths(share: float) -> str:
    return percent(share, 2)


def _verb(loss: float) -> str:
    return "gains" if loss < 0 else "loses"
