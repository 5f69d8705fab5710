"""What a node agrees to beyond its terms: checked before a run is joined and before a round is entered.

A refusal is one line that begins with its reason code (``policy:hours``), which the operator reads. What follows from
the node's own documents is found when it starts; hours and numbers a day are looked up in clock and ledger, so that a
restart forgets nothing. A round that was entered is finished: stopping in the middle would lose what it cost.
"""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import Field

from fedmarket.documents import Count, Positive, Section
from fedmarket.errors import Refusal
from fedmarket.federation.terms import Terms
from fedmarket.ledger.entries import Entry, Joined, Reserved, moment

DAY = timedelta(hours=24)

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hours = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
Family = Literal["logistic", "mlp", "ziln", "two-part", "tweedie"]


class PolicySection(Section):
    """The document's ``[policy]``. What is left out is not limited, but for the three keys that must be there.

    Attributes:
        contracts: hashes of the contracts that were agreed to.
        largest_epsilon: of a whole run.
        least_survivors: parties that a sum must have.
        terms: hash of the terms, where they are to be these and no others.
        models: kinds of models; all, where left out.
        least_noise: noise multiplier of the updates.
        least_colluders: parties that shared noise must bear to be known to the server.
        sums: ``masked``, or ``any``: in the open too.
        most_runs_a_day: joined within 24 hours.
        most_rounds_a_day: entered within 24 hours.
        hours: from and to, UTC, in which runs are joined and rounds entered; over midnight too.
    """

    contracts: Annotated[tuple[Hash, ...], Field(strict=False)]
    largest_epsilon: Positive
    least_survivors: Count
    terms: Hash | None = None
    models: Annotated[tuple[Family, ...], Field(strict=False, min_length=1)] | None = None
    least_noise: Positive | None = None
    least_colluders: Count | None = None
    sums: Literal["masked", "any"] = "masked"
    most_runs_a_day: Count | None = None
    most_rounds_a_day: Count | None = None
    hours: Hours | None = None


def breaches(policy: PolicySection, terms: Terms, *, rehearsal: bool) -> tuple[str, ...]:
    """Return one line, reason code first, for each rule that ``terms`` break whoever asks and when.

    Args:
        policy: the partner's.
        terms: as they follow from the partner's own copy of the federation's documents.
        rehearsal: whether the rows are a simulated market's; only then may noise come from a seed.
    """
    return tuple(f"policy:{code}: {words}" for code, words in _broken(policy, terms, rehearsal=rehearsal))


def need_allowed_now(policy: PolicySection, entries: Iterable[Entry], *, joining: bool, now: datetime) -> None:
    """Refuse to join a run, or to enter a round, outside the hours or beyond the numbers of a day.

    Args:
        policy: the partner's.
        entries: of its ledger; their times are the node's own clock's.
        joining: a run; otherwise it is about a round.
        now: with its time zone.

    Raises:
        Refusal: one line, reason code first.
    """
    if policy.hours is not None and not _within(policy.hours, now.astimezone(UTC).time()):
        raise Refusal(f"policy:hours: this party answers between {policy.hours} UTC")
    kind, most = (Joined, policy.most_runs_a_day) if joining else (Reserved, policy.most_rounds_a_day)
    if most is None:
        return
    since = moment(now - DAY)
    # Times are ISO 8601 in UTC, whose order is that of their texts; one in the future counts too.
    done = sum(entry.head.time > since for entry in entries if isinstance(entry.statement, kind))
    if done >= most:
        word = "runs" if joining else "rounds"
        raise Refusal(f"policy:{word}-a-day: {done} {word} within 24 hours, at most {most}")


def _broken(policy: PolicySection, terms: Terms, *, rehearsal: bool) -> Iterator[tuple[str, str]]:
    plan = terms.plan
    if terms.contract_hash not in policy.contracts:
        yield "contract", f"contract {terms.contract_hash[:12]} is none that this party agreed to"
    if policy.terms is not None and terms.hash != policy.terms:
        yield "terms", f"expected terms {policy.terms[:12]}, got {terms.hash[:12]}"
    if policy.models is not None and terms.model.kind not in policy.models:
        yield "model", f"expected one of {', '.join(policy.models)}, got {terms.model.kind}"
    noise = plan.mechanism("update").noise_multiplier
    if policy.least_noise is not None and not noise >= policy.least_noise:
        yield "noise", f"expected a noise multiplier of {policy.least_noise:g} or more, got {noise:g}"
    epsilon = plan.spent().epsilon if noise > 0 else math.inf
    if not epsilon <= policy.largest_epsilon:
        yield "epsilon", f"expected at most {policy.largest_epsilon:g} for a run, got {epsilon:.4f}"
    if terms.minimum_survivors < policy.least_survivors:
        yield "survivors", f"expected {policy.least_survivors} or more parties in a sum, got {terms.minimum_survivors}"
    colluders = None if plan.shares is None else terms.minimum_survivors - plan.shares
    if policy.least_colluders is not None and colluders is not None and colluders < policy.least_colluders:
        yield "colluders", f"expected shared noise to bear {policy.least_colluders} or more colluders, got {colluders}"
    if policy.sums == "masked" and terms.secagg != "secure":
        yield "sums", "expected sums under secure aggregation, got sums in the open"
    if plan.generator != "operating-system" and not rehearsal:
        yield "generator", "expected noise from the operating system, got noise from a seed"


def _within(hours: str, now: time) -> bool:
    start, end = (time.fromisoformat(text) for text in re.split("-", hours))
    return start <= now < end if start < end else now >= start or now < end
