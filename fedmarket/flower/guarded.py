"""Flower's two processes with two gaps closed: ``python -m fedmarket.flower.guarded superlink|superexec ARGUMENTS``.

``superlink TOKEN_FILE FLAGS...``: Flower's open-source version lets whoever reaches the control interface start runs,
and so ship code to every node. Its own place for a check is filled here: without the token in the file nothing is
started, stopped or registered.

``superexec FLAGS...``: Flower hands each ServerApp its token on the command line, where every user of the machine reads
it. Here it goes through a file that has no name.

The flags are those of ``flower-superlink`` and ``flower-superexec``. Both touch what Flower does not promise to keep,
which is one more reason why its version is pinned; tests start them and look.
"""

import hmac
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin

from fedmarket.errors import ConfigError
from fedmarket.files import read_private

SHORTEST_TOKEN, LONGEST_TOKEN = 32, 4096
"""Characters."""


class TokenAuthnPlugin(NoOpControlAuthnPlugin):
    """Lets through who shows the token, as Flower's only account."""

    def __init__(self, token: str) -> None:
        """Take the token to ask for."""
        super().__init__()
        self._token = token.encode()

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return whether the token is there, and whose it is."""
        shown = [value for key, value in metadata if key == ACCESS_TOKEN_KEY]
        given = shown[0].encode() if len(shown) == 1 and isinstance(shown[0], str) else b""
        if not hmac.compare_digest(given, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)


def read_token(path: Path) -> str:
    """Return the token in the file at ``path``.

    Raises:
        ConfigError: if it cannot be read, is not its owner's alone, or is too short.
    """
    try:
        token = read_private(path, what="token", largest=LONGEST_TOKEN).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the token must be ASCII") from None
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(f"{path}: expected a token of at least {SHORTEST_TOKEN} characters")
    return token


def main() -> None:
    """Start one of the two; never without what closes its gap."""
    kind, arguments = sys.argv[1], sys.argv[2:]
    if kind == "superlink":
        token = read_token(Path(arguments.pop(0)))
        _replace("flwr.superlink.cli.flower_superlink", "load_control_authn_plugin", lambda: TokenAuthnPlugin(token))
        command = "flwr.superlink.cli.flower_superlink", "flower_superlink"
    else:
        _replace("flwr.supercore.superexec.executor.subprocess_executor", "subprocess", _Processes)
        command = "flwr.supercore.cli.flower_superexec", "flower_superexec"
    sys.argv[:] = [command[1].replace("_", "-"), *arguments]
    getattr(importlib.import_module(command[0]), command[1])()


class _Processes:
    """What Flower's executor uses of :mod:`subprocess`."""

    DEVNULL = subprocess.DEVNULL

    @staticmethod
    def Popen(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":  # noqa: N802 - Flower calls it so
        """Start ``command`` with its token in a file without a name instead of among its words."""
        place = command.index("--token")
        with tempfile.TemporaryFile() as file:
            file.write(command[place + 1].encode())
            file.seek(0)
            hidden = [*command[:place], "--token-file", f"/dev/fd/{file.fileno()}", *command[place + 2 :]]
            return subprocess.Popen(hidden, pass_fds=(file.fileno(),), **options)


def _replace(module: str, name: str, value: object) -> None:
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise ConfigError(f"this version of Flower has no {name} in {module}; nothing was started")
    setattr(found, name, value)


if __name__ == "__main__":
    main()
