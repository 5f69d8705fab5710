"""What every script about a federation on this machine has in common: options, progress, one line for an error."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fedmarket.errors import FedmarketError
from fedmarket.loopback.federation import Say, sockets_folder
from fedmarket.loopback.loading import INTERRUPTED


def options_for(config: Path, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every script asks: the experiment, and where everything goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=config, help="the experiment; default: this folder's")
    parser.add_argument("--output", type=Path, help="a new folder; default: runs/federation/ and the time")
    return parser


def output_of(given: Path | None, root: Path, *, suffix: str = "") -> Path:
    """Return the folder that was asked for, or a new one in ``root`` named by the time."""
    return given or root / "runs" / "federation" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}{suffix}"


def scripted(work: Callable[[Path, Say], int]) -> int:
    """Return what ``work`` returns, or the exit status of its error, which is one line.

    Args:
        work: gets a folder for sockets and what says how far it is. SIGTERM ends it as Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    began = time.monotonic()
    try:
        with sockets_folder() as sockets:
            return work(sockets, lambda line: print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True))
    except FedmarketError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was started is stopped", file=sys.stderr)
        return INTERRUPTED
