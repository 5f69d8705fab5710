"""What is started, with which flags, and that no command line or environment holds a secret."""

import shlex
import sys
from itertools import pairwise

import pytest
from flwr.common.constant import ACCESS_TOKEN_KEY
from typer.testing import CliRunner

from fedmarket.cli.main import app
from fedmarket.errors import ConfigError
from fedmarket.flower.guarded import TokenAuthnPlugin, _Processes, read_token
from fedmarket.operator.superlink import Started, commands_of, environment_of, running, shell_lines, stop


def test_flags_are_the_safe_ones(make):
    home = make()
    superlink, superexec = commands_of(home).values()
    assert superlink[1:4] == ["-m", "fedmarket.flower.guarded", "superlink"]
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(superlink)
    flags = dict(pairwise(superlink))
    assert (flags["--host"], flags["--isolation"]) == ("127.0.0.1", "process")
    assert flags["--ssl-keyfile"] == str(home.certificate_key)
    for command in (superlink, superexec):
        assert "--insecure" not in command
        assert "--superexec-auth-secret-file" in command
        assert "--allow-runtime-dependency-installation" not in command
    environment = environment_of(home)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_no_secret_is_on_a_command_line_or_in_the_environment(make, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody else")
    home = make()
    words = [word for command in commands_of(home).values() for word in command]
    words += [*environment_of(home).values(), *shell_lines(home)]
    for path in (home.control_token, home.superexec_secret):
        assert not any(path.read_text() in word for word in words)
    assert "of somebody else" not in words


def test_print_says_exactly_what_start_would_start(make):
    home = make()
    done = CliRunner().invoke(app, ["server", "start", str(home.folder / "server.toml"), "--print"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [shlex.split(line) for line in lines if not line.startswith("export ")] == list(commands_of(home).values())
    assert any(line.startswith("export FLWR_HOME=") for line in lines)


def test_a_process_id_that_is_anothers_by_now_is_left_alone(make):
    home = make()
    home.pids.write_text('[{"name": "superlink", "pid": 1, "since": "long ago"}]')
    assert running(home) == []
    assert stop(home) == []
    assert not home.pids.exists()


def test_who_shows_the_token_is_let_through_and_nobody_else():
    plugin = TokenAuthnPlugin("t" * 43)
    shown, key = plugin.validate_tokens_in_metadata, ACCESS_TOKEN_KEY
    assert shown([(key, "t" * 43)])[0]
    for metadata in (
        [],
        [(key, "")],
        [(key, "t" * 42)],
        2 * [(key, "t" * 43)],
        [("else", "t" * 43)],
        [(key, b"t" * 43)],
    ):
        assert shown(metadata) == (False, None)


def test_a_server_apps_token_is_not_on_its_command_line(tmp_path):
    said = tmp_path / "said"
    program = (
        "import sys; from pathlib import Path; path = Path(sys.argv[sys.argv.index('--token-file') + 1]); "
        f"assert path.is_file(); Path({str(said)!r}).write_text(' '.join(sys.argv[1:]) + '|' + path.read_text())"
    )
    command = [sys.executable, "-c", program, "--first", "1", "--token", "secret", "--last", "2"]
    assert _Processes.Popen(command).wait(30) == 0
    words, _, token = said.read_text().partition("|")
    assert (token, words.split()[:2], words.split()[-2:]) == ("secret", ["--first", "1"], ["--last", "2"])
    assert "secret" not in words


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [("t" * 43, 0o640, "open to group"), ("", 0o600, "at least 32"), ("short", 0o600, "at least 32")],
)
def test_a_weak_token_is_refused(tmp_path, content, mode, said):
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        read_token(path)


def test_started_says_nothing_of_secrets():
    assert set(Started.__dataclass_fields__) == {"name", "pid", "since"}
