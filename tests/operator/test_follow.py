"""A run is started once, followed until its end, and ends with a model or with one line that says why."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedmarket.cli.main import app
from fedmarket.errors import ConfigError, FederationStopped, UsageError
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rehearsal import rehearse
from fedmarket.flower.control import Control, NodeKey, RunStatus, Unreachable
from fedmarket.operator import follow as module
from fedmarket.operator.follow import StartedRun, follow, found_run, start_run

ROOT = Path(__file__).parents[2]
RUNNING = RunStatus(status="running", sub_status="", details="")
DONE = RunStatus(status="finished", sub_status="completed", details="")
FAILED = RunStatus(
    status="finished", sub_status="failed", details="ServerApp failed with exception: 1 parties joined,\nat least 3"
)


class Superlink:
    """A SuperLink in memory: what it was asked to start, and what it says of it."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.says: list[RunStatus | Exception] = [RUNNING]
        self.registered: dict[bytes, int] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def register(self, key: NodeKey, *, name: str) -> bool:
        self.registered[key.content] = 101 + len(self.registered)
        return name == "alpha"

    def node_numbers(self) -> dict[bytes, int]:
        return self.registered

    def start(self, app: Path, config: dict[str, object]) -> int:
        self.started.append(config)
        return 40 + len(self.started)

    def status(self, run: int) -> RunStatus:
        said = self.says[0] if len(self.says) == 1 else self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def superlink(monkeypatch) -> Superlink:
    fake = Superlink()
    monkeypatch.setattr(Control, "of", lambda address, *, ca, token: fake)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    return fake


@pytest.fixture(scope="module")
def market(write_market, tmp_path_factory) -> tuple[Path, Path]:
    config = write_market(tmp_path_factory.mktemp("market"))
    names = open_market(MarketKey(config=config, changes=(), seed=0)).names
    return config, rehearse(tmp_path_factory.mktemp("roster"), names, minimum_survivors=3)


def test_the_same_command_finds_a_run_that_runs_and_goes_on_with_one_that_stopped(make, superlink, market, tmp_path):
    home, (config, roster), output = make(), market, tmp_path / "out"
    first = start_run(home, config, roster=roster, output=output)
    assert start_run(home, config, roster=roster, output=output) == first
    superlink.says = [FAILED]
    again = start_run(home, config, roster=roster, output=output)
    assert (first.number, again.number, len(superlink.started)) == (41, 42, 2)
    assert superlink.started[0] == superlink.started[1]
    assert superlink.started[0]["state"] == str(output / "state")
    assert superlink.started[0]["parties"] == 4
    assert found_run(home, 42).output == output
    (output / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="this run is finished"):
        start_run(home, config, roster=roster, output=output)


def test_what_can_be_checked_is_checked_before_anything_starts(make, superlink, market, tmp_path):
    config, roster = market
    home = make(app=tmp_path)
    with pytest.raises(ConfigError, match=r"no pyproject\.toml"):
        start_run(home, config, roster=roster, output=tmp_path / "out")
    with pytest.raises(UsageError, match="minimum_survivors"):
        start_run(home, config, roster=roster, output=tmp_path / "out", changes=("federation.minimum_survivors=2",))
    assert superlink.started == []
    with pytest.raises(UsageError, match="was not started from"):
        found_run(home, 41)


def test_a_run_is_followed_to_its_model(make, superlink, tmp_path):
    superlink.says = [RUNNING, Unreachable("away"), RUNNING, DONE]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "progress.json").write_text(json.dumps({"round": 1}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    told: list[object] = []
    follow(make(), StartedRun(number=7, output=tmp_path), on_progress=told.append)
    assert told == 4 * [{"round": 1}]


def test_a_run_without_model_says_why_in_one_line(make, superlink, tmp_path):
    superlink.says = [FAILED]
    with pytest.raises(FederationStopped, match=r"run 7 ended without a model: 1 parties joined, at least 3$"):
        follow(make(), StartedRun(number=7, output=tmp_path), on_progress=lambda told: None)


def test_a_silent_superlink_is_waited_for_in_vain_only_so_long(make, superlink, tmp_path, monkeypatch):
    superlink.says = [Unreachable("away")]
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.1)
    with pytest.raises(Unreachable):
        follow(make(), StartedRun(number=7, output=tmp_path), on_progress=lambda told: None)


def test_progress_is_a_line_for_each_round(make, superlink, market, tmp_path):
    home, (config, roster) = make(), market
    output = tmp_path / "out"
    (output / "state").mkdir(parents=True)
    told = {"round": 2, "rounds": 8, "phase": "update", "doing": "mask", "parties": ["a", "b"], "void_rounds": 1}
    told |= {"rejections": 1, "last_rejection": "b: no [red]reply[/] in time"}
    (output / "state" / "progress.json").write_text(json.dumps(told))
    superlink.says = [FAILED]
    words = ["server", "run", str(home.folder / "server.toml"), str(config), "--roster", str(roster)]
    done = CliRunner().invoke(app, [*words, "--output", str(output)])
    assert isinstance(done.exception, FederationStopped)
    assert "run 41\n" in done.stderr
    assert "round 2 of 8: update mask, 2 parties, 1 void, 1 rejections, last b: no [red]reply[/] in time" in done.stderr


def test_whom_a_run_waits_for_is_a_line_each_time_that_it_changes(make, superlink, tmp_path):
    home, output = make(), tmp_path / "out"
    (output / "state").mkdir(parents=True)
    home.runs.mkdir()
    (home.runs / "7.json").write_text(json.dumps({"output": str(output)}))
    told = {"round": 0, "rounds": 8, "phase": "centre", "parties": [], "void_rounds": 0, "rejections": 0}

    def says(*names: str) -> RunStatus:
        doing = f"waiting for {', '.join(names)}"
        (output / "state" / "progress.json").write_text(json.dumps(told | {"doing": doing}))
        return RUNNING

    waits = [["gamma", "delta"], ["gamma", "delta"], ["delta"]]
    superlink.status = lambda run: says(*waits.pop(0)) if waits else FAILED
    done = CliRunner().invoke(app, ["server", "run", str(home.folder / "server.toml"), "--follow", "7"])
    assert done.stderr.splitlines() == ["waiting for gamma, delta", "waiting for delta"]


def test_who_may_connect_is_told_with_the_fingerprint_that_ssh_keygen_shows(make, superlink):
    home = make(nodes=("alpha", "beta"))
    done = CliRunner().invoke(app, ["server", "admit", str(home.folder / "server.toml")])
    for name, mark in (("alpha", "  (new)"), ("beta", "")):
        key = (home.nodes / f"{name}.pub").read_text().split()[1]
        digest = base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode().rstrip("=")
        assert f"admitted: {name} SHA256:{digest}{mark}\n" in done.stdout
    assert json.loads(home.node_names.read_text()) == {"101": "alpha", "102": "beta"}


def test_a_key_that_flower_does_not_take_admits_nobody(make, superlink):
    home = make(nodes=("alpha",))
    (home.nodes / "beta.pub").write_text("ssh-ed25519 AAAA")
    done = CliRunner().invoke(app, ["server", "admit", str(home.folder / "server.toml")])
    assert isinstance(done.exception, ConfigError)
    assert superlink.registered == {}


def test_without_any_key_it_says_where_keys_go(make, superlink):
    done = CliRunner().invoke(app, ["server", "admit", str(make().folder / "server.toml")])
    assert done.stdout == (
        "admitted: nobody yet; put each SuperNode's public key to nodes/NAME.pub, then fedmarket server admit\n"
    )


def test_init_without_a_checkout_warns_in_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\n")
    done = CliRunner().invoke(app, ["server", "init", "home", "--host", "fed.example"])
    assert done.exit_code == 0
    assert done.stderr == (
        f"warning: {tmp_path} is no checkout of the release, and runs ship its apps from there; "
        "before the first run set app in home/server.toml\n"
    )


def test_init_says_what_goes_to_whom(tmp_path):
    words = ["server", "init", str(tmp_path / "home"), "--host", "fed.example", "--node", "bank", "--app", str(ROOT)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert done.stderr == ""
    assert "to partners and auditors: the log's key fed.example/log+" in done.stdout
    assert "to bank alone: " in done.stdout
    assert "to every partner: fed.example:8443" in done.stdout
    for secret in ("secrets/control.token", "secrets/superexec.secret", "log.pem", "tls/ca.key"):
        assert (tmp_path / "home" / secret).read_text().strip() not in done.stdout
