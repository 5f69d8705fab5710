"""Terms of an arm come from documents alone: who shares noise with whom, and that it fits the words."""

from pathlib import Path

import pytest

from fedmarket.errors import ConfigError, PlanError
from fedmarket.experiment.arms import ARMS, arm_named, layout_for, terms_of
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.terms import Terms

JOINT = arm_named("federated_dp")
SHARED = "privacy.noise=distributed"


@pytest.fixture(scope="module")
def path(write_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market"))


def opened(path: Path, *changes: str) -> Market:
    return open_market(MarketKey(config=path, changes=changes, seed=0))


def terms(path: Path, *changes: str, arm: str = "federated_dp") -> Terms:
    market = opened(path, *changes)
    return terms_of(arm_named(arm), market.config, market.contract, seed=0)


@pytest.mark.parametrize(("colluders", "shares"), [(1, 2), (2, 1)])
def test_noise_is_sized_for_the_fewest_survivors_less_the_colluding_parties(path: Path, colluders: int, shares: int):
    found = terms(path, SHARED, f"privacy.colluders={colluders}")
    assert (found.minimum_survivors, found.plan.shares) == (3, shares)
    assert found.plan.spent().epsilon <= 1.0
    assert found.plan.epsilon_against(3) < found.plan.spent().epsilon


def test_a_party_on_its_own_shares_its_noise_with_nobody(path: Path):
    for arm in ARMS:
        plan = terms(path, SHARED, arm=arm.name).plan
        assert plan.shares == (None if not arm.noisy else 2 if arm.holders == "parties" else 1), arm.name
        assert (plan.spent().epsilon <= 1.0) == arm.noisy


def test_where_noise_is_of_ones_own_nothing_is_shared(path: Path):
    assert {terms(path, arm=arm.name).plan.shares for arm in ARMS} == {None}


@pytest.mark.parametrize("modulus_bits", [32, 64])
@pytest.mark.parametrize("arm", ["federated_dp", "pooled_dp", "local_only_dp"])
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_noise_and_rows_fit_the_words(path: Path, arm: str, noise: str, modulus_bits: int):
    found = terms(path, f"privacy.noise={noise}", f"aggregation.modulus_bits={modulus_bits}", arm=arm)
    for mechanism in found.plan.mechanisms:
        grid = found.grid_of(mechanism.phase)
        row = mechanism.sensitivity
        most = found.max_parties * (found.max_party_rows * row + mechanism.noise_reach)
        assert grid.parties * grid.bound >= most * (1 - 1e-12)
        assert most / grid.resolution <= 2.0 ** (modulus_bits - 2)
        if mechanism.grid is not None:
            assert grid.resolution == mechanism.grid.resolution


def test_noise_that_does_not_fit_the_words_is_refused(path: Path):
    with pytest.raises(PlanError, match=r"^aggregation\.modulus_bits: 32 bits do not hold the sum with its noise$"):
        terms(path, SHARED, "federation.max_party_rows=100000000")


@pytest.mark.parametrize("colluders", [3, 4])
def test_more_colluders_than_honest_parties_are_refused_where_noise_is_shared_and_only_there(
    path: Path, colluders: int
):
    change = f"privacy.colluders={colluders}"
    with pytest.raises(ConfigError, match=r"privacy\.colluders must be below federation\.minimum_survivors"):
        opened(path, SHARED, change)
    assert terms(path, change).plan.spent().epsilon <= 1.0


def test_scales_come_from_the_contracts_layout(path: Path):
    market = opened(path)
    layout = layout_for(market.config, market.contract)
    scaling = terms(path).scaling
    assert (scaling.one_hot, scaling.weights) == (layout.one_hot, layout.weights)
    assert (scaling.exponent, scaling.row_norm) == (0.35, 3.5)


# What a value adds.


@pytest.fixture(scope="module")
def value_paths(write_value_market, write_joint_market, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    writers = {"lines": write_value_market, "joint": write_joint_market}
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in writers.items()}


@pytest.mark.parametrize("kind", ["lines", "joint"])
def test_every_arm_of_a_value_releases_level_and_segments_and_keeps_its_promise(value_paths, kind: str):
    for arm in ARMS:
        found = terms(value_paths[kind], arm=arm.name)
        assert (found.plan.releases_of("level"), found.plan.releases_of("segment"), found.segments) == (1, 1, 6)
        assert (found.plan.spent().epsilon <= 1.0) == arm.noisy, arm.name


def test_a_model_without_a_purchase_recalibrates_no_purchase(value_paths):
    change = 'model={kind="tweedie",binning=false,hidden=[],power=1.5}'
    plan = {kind: terms(path, change).plan for kind, path in value_paths.items()}
    assert {kind: found.releases_of("calibrate") for kind, found in plan.items()} == {"lines": 0, "joint": 3}
    assert plan["joint"].mechanism("calibrate").length == 5
    assert {found.spent().epsilon <= 1.0 for found in plan.values()} == {True}


LOGISTIC = 'model={kind="logistic",binning=false}'
MLP = 'model={kind="mlp",binning=false,hidden=[3]}'
ZILN = 'model={kind="ziln",binning=false,hidden=[]}'


def test_shares_of_the_budget_for_a_value_must_be_there_and_only_where_there_is_one(
    write_market, write_value_market, write_joint_market, tmp_path: Path
):
    unsaid = ("\nvalue.level_share = 0.1\nvalue.segment_share = 0.05", "")
    said = (
        'generator = "seeded-for-tests"',
        'generator = "seeded-for-tests"\nvalue.level_share = 0.1\nvalue.segment_share = 0.05',
    )
    for write, name in ((write_value_market, "tiny-ltv"), (write_joint_market, "demo")):
        with pytest.raises(ConfigError) as caught:
            terms(write(tmp_path / name, unsaid))
        assert str(caught.value) == f"privacy.value: missing, but contract {name} has a value: level and segments cost"
    with pytest.raises(ConfigError) as caught:
        terms(write_market(tmp_path / "plain", said))
    assert str(caught.value) == "privacy.value: contract demo has no value; leave it out"


@pytest.mark.parametrize("change", [LOGISTIC, MLP])
@pytest.mark.parametrize(("kind", "name"), [("lines", "tiny-ltv"), ("joint", "demo")])
def test_a_model_of_a_response_alone_does_not_fit_a_value(value_paths, kind: str, name: str, change: str):
    expected = "expected ziln, two-part or tweedie, got '(logistic|mlp)'$"
    with pytest.raises(ConfigError, match=rf"^model\.kind: contract {name} has a value to predict, {expected}"):
        terms(value_paths[kind], change)


@pytest.mark.parametrize(
    "change", [ZILN, ZILN.replace("ziln", "two-part"), 'model={kind="tweedie",binning=false,hidden=[],power=1.5}']
)
def test_a_model_of_a_value_does_not_fit_a_response_alone(path: Path, change: str):
    with pytest.raises(ConfigError, match=r"^model\.kind: contract demo has no value to predict, got '[a-z-]+'$"):
        terms(path, change)


@pytest.mark.parametrize(
    "change",
    [
        ("typical = 40", "typical = 41"),
        ("upper = 5000", "upper = 5001"),
        ("cuts = [4]", "cuts = [5]"),
        ("cuts = [13, 52]", "cuts = [13]"),
        ("upper = 1000\nedges", "upper = 1000\nlog_unit = 10\nedges"),
    ],
)
def test_parties_under_another_contract_of_a_value_hold_other_terms(write_joint_market, tmp_path: Path, change):
    hashes = []
    for place, changes in enumerate(((), (change,))):
        written = write_joint_market(tmp_path / str(place))
        contract = written.parent / "contract.toml"
        text = contract.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        contract.write_text(text, encoding="utf-8")
        hashes.append(terms(written).hash)
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    "change", ["privacy.value.level_share=0.2", "privacy.value.segment_share=0.2", "model.kind=two-part"]
)
def test_parties_with_another_configuration_of_a_value_hold_other_terms(value_paths, change: str):
    for path in value_paths.values():
        assert terms(path, change).hash != terms(path).hash


@pytest.mark.parametrize(
    "change",
    [
        SHARED,
        "privacy.private_evaluation=false",
        "scaling.exponent=0.3",
        "scaling.row_norm=3.0",
        "training.scaled=false",
    ],
)
def test_parties_with_another_configuration_hold_other_terms(path: Path, change: str):
    assert terms(path, change).hash != terms(path).hash
