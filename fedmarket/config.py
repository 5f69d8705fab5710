"""One experiment as one complete TOML document, parsed once at the edge into frozen values.

Every key is written in the document; nothing is inherited and an unknown key is an error. Paths are relative to the
document.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedmarket.documents import Count, Name, Number, Positive, Section, Share, parse_document
from fedmarket.errors import ConfigError
from fedmarket.files import read_toml


class ColumnPartition(Section):
    """One party for each value of a column (the natural silos of a data set)."""

    kind: Literal["column"]
    column: Name


class IidPartition(Section):
    """Rows dealt at random to ``parties`` parties of equal size."""

    kind: Literal["iid"]
    parties: Count


class SkewPartition(Section):
    """Rows dealt with Dirichlet(``alpha``) skew of the label or of the quantity (Hsu et al. 2019; Li et al. 2022)."""

    kind: Literal["label-skew", "quantity-skew"]
    parties: Count
    alpha: Positive


class HashPartition(Section):
    """Rows dealt by the SHA-256 of a cell's text: equal cells go to one party in every table, whatever the seed."""

    kind: Literal["hash"]
    column: Name
    parties: Count


class AcquisitionPartition(Section):
    """One party for each month or quarter of a customer's first purchase; for contracts with transactions."""

    kind: Literal["acquisition"]
    period: Literal["month", "quarter"]


Partition = Annotated[
    ColumnPartition | IidPartition | SkewPartition | HashPartition | AcquisitionPartition, Field(discriminator="kind")
]


class SyntheticMarket(Section):
    """The embedded market with known truth; it comes with its parties. ``seed`` is data randomness."""

    kind: Literal["synthetic-market"]
    customers: Annotated[int, Field(ge=100)]
    parties: Count
    seed: Annotated[int, Field(ge=0)]


class PublicSet(Section):
    """A public data set, found by name and hash."""

    kind: Literal["public"]
    name: Name
    partition: Partition


class OwnFile(Section):
    """The researcher's own csv or parquet file."""

    kind: Literal["file"]
    path: Name
    partition: Partition


class DataSection(Section):
    """Where the rows come from, under which contract, and how many are kept for the test."""

    contract: Name
    test_share: Share
    source: Annotated[SyntheticMarket | PublicSet | OwnFile, Field(discriminator="kind")]


class LogisticModel(Section):
    """Logistic regression on the encoded table; ``binning`` adds one-hot bins by the contract's public edges."""

    kind: Literal["logistic"]
    binning: bool


class MlpModel(Section):
    """A multilayer perceptron with ReLU on the encoded table."""

    kind: Literal["mlp"]
    binning: bool
    hidden: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]


class ValueModel(Section):
    """A model of what a customer will spend, for contracts with a value.

    ``ziln`` is the zero-inflated lognormal (Wang, Liu and Miao 2019), ``two-part`` a propensity times a conditional
    mean. Without ``hidden`` layers the body is linear. A contract with a label too has that head on the same body.
    """

    kind: Literal["ziln", "two-part"]
    binning: bool
    hidden: Annotated[tuple[Count, ...], Field(strict=False)]


class TweedieModel(Section):
    """One mean for all customers, those who spend nothing included, by the Tweedie deviance of ``power``."""

    kind: Literal["tweedie"]
    binning: bool
    hidden: Annotated[tuple[Count, ...], Field(strict=False)]
    power: Annotated[Number, Field(gt=1, lt=2)]


Model = LogisticModel | MlpModel | ValueModel | TweedieModel


class Schedule(Section):
    """How the model is moved: ``rounds`` exchanges of ``local_steps`` steps each.

    With one local step a round exchanges one (noisy) gradient sum and the server takes a momentum step, which is
    the best use of privacy; more local steps are for slow links. ``weight_decay`` shrinks parameters at the server,
    which filters noise out of directions that few customers speak for. The released model is the mean of the iterates
    after the first ``average_after`` share of the rounds (Polyak and Juditsky 1992).

    ``scaled`` says whether columns and rows are scaled (:class:`ScalingSection`). Where there is noise and
    ``noise_walk`` is not 0, the step is at most so long that noise alone moves a parameter, over all rounds, by about
    ``noise_walk`` (standard deviation); ``learning_rate`` stays the upper limit.
    """

    rounds: Count
    local_steps: Count
    local_learning_rate: Positive
    learning_rate: Positive
    noise_walk: Annotated[Number, Field(ge=0)]
    scaled: bool
    momentum: Annotated[Number, Field(ge=0, lt=1)]
    weight_decay: Annotated[Number, Field(ge=0, lt=1)]
    average_after: Annotated[Number, Field(ge=0, lt=1)]


class ScalingSection(Section):
    """How columns and rows are scaled before training, by public numbers and the private centre alone.

    A place of the encoded row that holds a share c of the customers is multiplied by its column's contract weight times
    (c + 0.01) ** -``exponent``: rare words are heard better. All are brought to a typical row norm of ``row_norm``,
    and each row's loss is weighted by ``row_norm`` over its own norm, so that all gradients are bounded by
    ``row_norm`` before anything is clipped.
    """

    exponent: Annotated[Number, Field(ge=0, le=1)]
    row_norm: Annotated[Number, Field(gt=1)]


class ValueShares(Section):
    """Shares of the squared budget for what only a value needs: its level, and the sums of the segments."""

    level_share: Share
    segment_share: Share


class PrivacySection(Section):
    """What may be spent and how it is spent; the plan derives noise from it.

    ``epsilon`` is between 0.02, below which the accountants' own error bound of 0.01 leaves nothing to spend, and 32,
    above which there is nothing to promise. ``centre_share`` and ``calibration_share`` are the shares of the squared
    Gaussian-DP budget (mu squared, Dong et al. 2022) given to the private feature means before training and to the
    private recalibration after it. With ``private_evaluation`` test metrics come from noisy counts of held-out rows.
    Those rows take part in nothing else, so the same epsilon pays for them (parallel composition, McSherry 2009).
    ``value`` belongs to contracts with a value, and to no others.

    ``noise`` is ``local``, where each party's noise is enough alone, or ``distributed``, where shares add up under
    secure aggregation. They are sized for ``federation.minimum_survivors`` less ``colluders`` parties: each party knows
    its own share, and colluding ones may tell theirs. ``generator = "seeded-for-tests"`` makes noise reproducible and
    therefore worthless as protection.
    """

    epsilon: Annotated[Number, Field(ge=0.02, le=32)]
    noise: Literal["local", "distributed"]
    colluders: Count
    clip_norm: Positive
    sample_rate: Annotated[Number, Field(gt=0, le=1)]
    centre_share: Share
    calibration_share: Share
    calibration_rounds: Count
    private_evaluation: bool
    generator: Literal["operating-system", "seeded-for-tests"]
    value: ValueShares | None = None

    @property
    def shares(self) -> dict[str, float]:
        """The share of mu squared of each release but the updates, which have what is left."""
        value = self.value
        return {
            "centre": self.centre_share,
            "calibrate": self.calibration_share,
            "level": value.level_share if value else 0.0,
            "segment": value.segment_share if value else 0.0,
        }


class AggregationSection(Section):
    """How integer updates are summed modulo 2 ** ``modulus_bits``.

    ``secure`` masks them, so that the server sees nothing but the sum; ``ideal`` is the plain sum of updates in the
    open, the same to the last bit, for quick research.
    """

    secagg: Literal["secure", "ideal"]
    modulus_bits: Literal[32, 64]


class FederationSection(Section):
    """Public capacity of the federation, what a round needs, and how long the coordinator waits.

    ``max_parties`` and ``max_party_rows`` size the integer range so that no sum can wrap; both are agreed in public
    and say nothing about a table. A round in which fewer than ``minimum_survivors`` parties answered is void, and
    ``max_void_rounds`` of them in a row end the run. ``reply_timeout_seconds`` bounds the wait for every answer but
    those that need computing on rows, which have ``training_timeout_seconds``.
    """

    max_parties: Count
    max_party_rows: Count
    minimum_survivors: Count
    max_void_rounds: Count
    reply_timeout_seconds: Positive
    training_timeout_seconds: Positive


class EvaluationSection(Section):
    """What a campaign costs and earns (same currency), what a value is compared with, and how sure the intervals are.

    A contract with a label needs ``contact_cost`` and ``response_margin``, what one response earns whoever it is from.
    One with label and value needs ``value_margin`` too, the share of a responder's value that is earned.
    ``past_spend`` is the column that is shown beside every predicted value; contracts with transactions have their own.
    """

    contact_cost: Positive | None = None
    response_margin: Positive | None = None
    value_margin: Share | None = None
    past_spend: Name | None = None
    bootstrap_replicates: Annotated[int, Field(ge=100)]


class ExperimentConfig(Section):
    """A whole experiment; see :func:`load_config`.

    ``training`` is the schedule of private arms with many parties' rows, ``baseline_training`` that of the same without
    privacy, and ``alone_training`` that of a party alone: its few rows overfit without privacy, and with it bear all
    the noise, so it takes smaller steps in both cases.

    ``start`` is a document of public starting parameters for all arms, made by ``fedmarket pretrain``; without it
    linear bodies start at zero.
    """

    name: Name
    output: Name
    start: Name | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(strict=False, min_length=1)]
    workers: Count
    device: Literal["cpu", "cuda"] = "cpu"
    data: DataSection
    model: Annotated[Model, Field(discriminator="kind")]
    scaling: ScalingSection
    training: Schedule
    alone_training: Schedule
    baseline_training: Schedule
    privacy: PrivacySection
    aggregation: AggregationSection
    federation: FederationSection
    evaluation: EvaluationSection

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: a seed is used twice")
        if self.privacy.noise == "distributed" and self.privacy.colluders >= self.federation.minimum_survivors:
            raise ValueError(
                "privacy.colluders must be below federation.minimum_survivors: nobody's noise would be left"
            )
        if sum(self.privacy.shares.values()) >= 1:
            raise ValueError("privacy: centre_share, calibration_share and the shares of value must add up to below 1")
        return self


def load_config(path: Path, *, changes: tuple[str, ...] = ()) -> ExperimentConfig:
    """Return the experiment at ``path``, with ``changes`` of the form ``section.key=value`` applied.

    Values in ``changes`` are TOML values; a bare word counts as a string. Paths in the result are absolute.

    Raises:
        ConfigError: one line that names the file and the key, and says what was expected.
    """
    document = read_toml(path)
    for change in changes:
        _apply(document, change)
    config = parse_document(ExperimentConfig, document, source=str(path))
    return _with_absolute_paths(config, path.resolve().parent)


def _apply(document: dict[str, Any], change: str) -> None:
    if not change.isprintable():  # no line end, and no byte of a terminal that is not of UTF-8
        raise ConfigError(f"--set {change!a}: expected KEY=VALUE in one line of UTF-8")
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {change}: expected KEY=VALUE, for example privacy.epsilon=8")
    *sections, last = key.split(".")
    here = document
    for section in sections:
        inner = here.get(section)
        if not isinstance(inner, dict):
            known = ", ".join(sorted(name for name, value in here.items() if isinstance(value, dict)))
            raise ConfigError(f"--set {key}: no section {section!r}; expected one of {known or 'no section here'}")
        here = inner
    if last not in here and (sections or last not in ExperimentConfig.model_fields):
        raise ConfigError(f"--set {key}: no such key; expected one of {', '.join(sorted(here))}")
    here[last] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, a whole number of thousands of digits, or nested too deep
        return text


def _with_absolute_paths(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    data = config.data.model_copy(update={"contract": str(folder / config.data.contract)})
    if isinstance(data.source, OwnFile):
        source = data.source.model_copy(update={"path": str(folder / data.source.path)})
        data = data.model_copy(update={"source": source})
    start = None if config.start is None else str(folder / config.start)
    return config.model_copy(update={"data": data, "output": str(folder / config.output), "start": start})
