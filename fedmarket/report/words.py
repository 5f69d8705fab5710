"""Results in words: the headline, the sentences below it, and how numbers are written.

The words follow the numbers: an arm that gains is said to gain, noise from a seeded generator is said to protect
nobody, and an epsilon is never rounded down.
"""

import math
from collections.abc import Iterable
from typing import Any

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
}
"""Arms in the order in which they are shown; an arm that is not here is shown last, under its own name."""

STEP_NAMES = {
    "federation": "Federating",
    "schedule": "Private schedule",
    "clipping": "Clipping",
    "rounding": "Rounding to integers",
    "noise": "Noise",
}

SEEDED_BANNER = "NOT PRIVATE: noise came from a seeded generator"


def headline(results: dict[str, Any]) -> str:
    """Return the result in one sentence: what was promised to a customer and what that cost.

    Guarantees:
        Losses are called losses and gains gains, after rounding; the epsilon is the largest of any party, rounded
        up; seeded noise is named as such.
    """
    pooled, best = results["loss"]["pooled"], results["loss"]["pooled_best"]
    verb, best_verb = _verb(pooled["mean"]), _verb(best["mean"])
    against_best = "" if best_verb == verb else f"{best_verb} "
    bound = "95 % upper bound" if verb == "loses" else "95 % upper bound of the loss"
    return (
        f"{_opening(results)}, the {len(results['parties'])} parties' joint model {verb} {_size(pooled['mean'])} of "
        f"{results['metric'].upper()} against the pooled model ({bound} {percent(pooled['upper_95'])}) and "
        f"{against_best}{_size(best['mean'])} against the best pooled model of any class."
    )


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
        f"{percent(data['response_rate'])} responses, {data['features']} features. "
        f"{'One seed' if seeds == 1 else f'Means over {seeds} seeds'}. "
        f"Delta {short(results['plan']['delta'])}, neighbours by {results['plan']['adjacency'].replace('-', ' ')}."
    )


def parties_sentence(results: dict[str, Any]) -> str:
    """Return for how many parties the joint model is better than their own."""
    parties = [party for party in results["parties"] if party["auc_joint_dp"] is not None]
    alone = [party["auc_joint_dp"] > party["auc_alone"] for party in parties if party["auc_alone"] is not None]
    private = [party["auc_joint_dp"] > party["auc_alone_dp"] for party in parties if party["auc_alone_dp"] is not None]
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
        f"The truth of this market is known: no model can be expected to exceed {score(bayes['mean'])}; "
        f"the joint model reaches {score(reached)}."
    )


def overlap_sentence(results: dict[str, Any]) -> str:
    """Return what a customer of several parties spends."""
    total = sum(float(spent["epsilon"]) for spent in results["privacy"].values())
    return (
        "The guarantee is for a customer in one party's table. A customer held by several parties spends the sum of "
        f"their epsilons (and deltas): {upwards(total)} if held by all {len(results['privacy'])}."
    )


def arm_name(arm: str) -> str:
    """Return the name of an arm for a reader."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def in_order(arms: Iterable[str]) -> list[str]:
    """Return arms in the order in which they are shown."""
    known = list(ARM_NAMES)
    return sorted(arms, key=lambda arm: (known.index(arm) if arm in known else len(known), arm))


def score(value: float | None) -> str:
    """Return an AUC or another metric with four digits; ``-`` where there is none.

    >>> score(0.78125), score(None)
    ('0.7812', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, without a negative zero.

    >>> percent(0.0071), percent(-0.0001), percent(-0.02)
    ('0.7 %', '0.0 %', '-2.0 %')
    """
    return f"{round(100 * share, digits) + 0.0:.{digits}f} %"


def signed(value: float | None) -> str:
    """Return a difference of metrics with its sign.

    >>> signed(0.0123), signed(-0.5), signed(None)
    ('+0.0123', '-0.5000', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:+.4f}"


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


def _verb(loss: float) -> str:
    return "gains" if round(100 * loss, 1) < 0 else "loses"


def _size(loss: float) -> str:
    return percent(abs(loss))
