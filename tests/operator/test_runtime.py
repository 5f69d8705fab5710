"""A federation as it is between organisations: a SuperLink, five SuperNodes and five party processes, start to model.

Only loopback. Then a second run, in which some of it is killed; ``experiments/federation/kill.py`` kills all of it in
every phase.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmarket.errors import FederationStopped
from fedmarket.loopback.documents import make_consortium
from fedmarket.loopback.federation import Federation, sockets_folder
from fedmarket.loopback.findings import need_bit_equal, need_verified, simulated_model
from fedmarket.loopback.kills import Case, need_nothing_lost, run_with_kills
from fedmarket.loopback.processes import BIN, environment_of, found
from fedmarket.operator.settings import Home
from fedmarket.operator.superlink import running

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(sys.platform != "linux", reason="finds what it started in /proc"),
]

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 560.0
FIVE = (("parties = 4", "parties = 5"), ("customers = 1500", "customers = 2000"))
SHORT = {
    "training.rounds": 1,
    "privacy.calibration_rounds": 1,
    "privacy.private_evaluation": False,
    "federation.minimum_survivors": 4,
    "federation.reply_timeout_seconds": 200.0,
    "federation.training_timeout_seconds": 200.0,
}
"""Three rounds, and patience: Flower starts a process for each message, five at once on shared cores."""

TWO_RUNS = 2.0
"""Cap on epsilon."""


@pytest.fixture(scope="module")
def federation(write_market, installed, tmp_path_factory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    config = write_market(folder / "market", *FIVE)
    with sockets_folder() as sockets, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(installed))
        made = make_consortium(folder / "made", config, app=ROOT, sockets=sockets, changes=SHORT, cap=TWO_RUNS)
        with Federation.of(made) as started:
            yield started
        assert not found(started.server_home, *(daemon.home for daemon in (*started.parties, *started.nodes)))


@pytest.fixture(scope="module")
def output(federation: Federation) -> Path:
    """What a run leaves."""
    folder, said = federation.consortium.folder / "run", []
    try:
        federation.run(folder, seconds=RUN_SECONDS, say=said.append)
    except FederationStopped as error:
        logs = "\n".join(path.read_text()[-2000:] for path in sorted(federation.consortium.folder.rglob("*.log")))
        pytest.fail(f"{error}\n{said}\n{logs}")
    return folder


def test_who_has_no_token_starts_no_run(federation, tmp_path):
    home, server = tmp_path / "stranger", federation.consortium.home
    home.mkdir()
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{server.address}"\n'
    (home / "config.toml").write_text(f'{connection}root-certificates = "{server.ca}"\n')
    for words in (("run", ".", "here"), ("list", "here"), ("supernode", "list", "here")):
        ran = subprocess.run(
            [str(BIN / "flwr"), *words],
            env=environment_of(home), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode != 0
        assert "Authentication failed" in ran.stdout + ran.stderr
    assert '/v1/control/start-run HTTP/1.1" 401' in said_by(server)


@pytest.mark.usefixtures("output")
def test_who_may_connect_is_told_by_name_and_the_number_that_its_node_says_is_known(federation):
    said = federation.command("server", "admit", federation.consortium.settings).splitlines()
    assert [line.split()[1] for line in said] == [site.folder.name for site in federation.consortium.sites]
    names = json.loads(federation.consortium.home.node_names.read_text())
    assert sorted(names.values()) == [site.folder.name for site in federation.consortium.sites]
    logs = [(site.node / "supernode.log").read_text() for site in federation.consortium.sites]
    assert all(any(number in log for log in logs) for number in names)


def test_processes_give_the_model_of_a_simulation_to_the_last_bit(federation, output):
    simulated = simulated_model(federation.consortium, app=ROOT)
    need_bit_equal(output / "model.safetensors", simulated)
    assert abs(simulated["parameters"]).max() > 0.01
    other = {name: array + 1e-9 * (name == "scale") for name, array in simulated.items()}
    with pytest.raises(FederationStopped, match="other numbers than a simulation's in scale"):
        need_bit_equal(output / "model.safetensors", other)


def test_the_bundle_holds_under_everybodys_keys(federation, output):
    verdict = need_verified(federation.consortium, output / "bundle.zip")
    assert len(verdict.parties) == 5
    assert all(0.9 < party.epsilon <= 1.0 for party in verdict.parties)


def test_a_finished_run_is_not_run_again(federation, output):
    with pytest.raises(FederationStopped, match="this run is finished"):
        federation.run(output, seconds=RUN_SECONDS, say=lambda line: None)


@pytest.mark.usefixtures("output")
def test_no_secret_of_the_server_is_on_a_command_line(federation):
    server = federation.consortium.home
    there = found(federation.server_home)
    assert {one.pid for one in running(server)} <= set(there)
    secrets = [path.read_text() for path in (server.control_token, server.superexec_secret)]
    for words in there.values():
        assert not any(secret in word for secret in secrets for word in words)
        assert "--token" not in words


@pytest.mark.usefixtures("output")
def test_what_is_killed_costs_a_round_and_no_budget(federation):
    steps, said = federation.consortium.terms.steps, []
    cases = [Case(victim="party", phase=steps[0]), Case(victim="superlink", phase=steps[-1])]
    output = federation.consortium.folder / "killed"
    happened = run_with_kills(federation, list(cases), output, seconds=RUN_SECONDS, say=said.append)
    assert {case for case, _ in happened} == set(cases), said
    verdict = need_verified(federation.consortium, output / "bundle.zip")
    assert all(party.epsilon <= TWO_RUNS for party in verdict.parties)
    assert all(daemon.alive for daemon in (*federation.parties, *federation.nodes))
    assert need_nothing_lost(federation) >= 2 * 3 * 4
    with federation.parties[0].log.open("a") as log:
        log.write("2026-01-01 00:00:00,000 INFO mask 0123456789ab round 9: answered (3 ms)\n")
    with pytest.raises(FederationStopped, match="round 9 of 0123456789ab left and is not in its ledger"):
        need_nothing_lost(federation)


def test_without_superlink_there_is_one_line(make, federation, tmp_path):
    home, consortium = make(), federation.consortium
    with pytest.raises(FederationStopped, match=r"^fedmarket server run: .*does not answer"):
        federation.command(
            "server", "run", home.folder / "server.toml", consortium.config, "--roster", consortium.roster,
            "--output", tmp_path / "o",
        )  # fmt: skip


def said_by(server: Home) -> str:
    return "\n".join(path.read_text()[-4000:] for path in sorted(server.logs.glob("*.log")))
