"""Commands for a partner's node: set it up, look at everything before a run, and serve."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, err, group, out, print_json, shown
from fedmarket.errors import UsageError

party_app = group(
    "A partner's node: the process that holds rows, keys and budget.", example="fedmarket party preflight partner.toml"
)

KEY, PREFLIGHT = "fedmarket-key/1", "fedmarket-preflight/1"

Document = Annotated[Path, typer.Argument(metavar="PARTNER", help="The node's partner.toml.", show_default=False)]


@party_app.command("init")
def party_init(
    folder: Annotated[Path, typer.Argument(help="Where the node's files go; nothing is overwritten.")],
    name: Annotated[str, typer.Option(help="Your company's name, as the roster will have it.")],
    as_json: Json = False,
) -> None:
    """Make a node's identity and an example partner.toml, and print the public key for the roster.

    [bold]Example[/]

      fedmarket party init ~/fedmarket-node --name "Alpha Bank"
    """
    from fedmarket.node.beginning import DOCUMENT, begin

    identity = begin(folder, name=name)
    if as_json:
        print_json({"format": KEY, "public_key": identity.public_hex})
        return
    out.print(f"now fill in {escape(shown(folder / DOCUMENT))}, and send this line to whoever keeps the roster:")
    out.print(f"{identity.public_hex}  {escape(name)}", soft_wrap=True)


@party_app.command("preflight")
def party_preflight(
    document: Document,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the SuperNode connects: look whether it can.")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="The PEM file that the SuperNode trusts; by default the machine's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at everything before a run: one line a check, all problems in one go; ends with 1 if there is any.

    A node that is serving is not disturbed.

    [bold]Example[/]

      fedmarket party preflight partner.toml --server federation.example.org:8443 --certificates ca.pem
    """
    from fedmarket.node.preflight import Server, preflight

    asked = None
    if server is not None:
        host, _, port = server.rpartition(":")
        if not (host and port.isdecimal()):
            raise UsageError(f"--server: expected HOST:PORT, got {server!r}")
        asked = Server(host=host, port=int(port), certificates=certificates)
    checks = []
    for found in preflight(document, server=asked):
        checks.append(asdict(found))
        if not as_json:  # each as it is found: a server that does not answer takes its time
            mark = "[green]ok   [/]" if found.good else "[bold red]wrong[/]"
            out.print(f"{mark}  {found.what:<10}  {escape(found.words)}", soft_wrap=True)
    if as_json:
        print_json({"format": PREFLIGHT, "checks": checks})
    if wrong := sum(not one["good"] for one in checks):
        err.print(f"{wrong} problem(s); a node in this state should not serve", soft_wrap=True)
        raise typer.Exit(1)


@party_app.command("serve")
def party_serve(document: Document) -> None:
    """Serve the node until SIGTERM or Ctrl-C; log lines go to stderr.

    It holds rows, key, ledger and policy, and answers the relay that Flower starts for each message, at its Unix
    socket. A log line for each question says what was asked and how it ended, and never a row.

    [bold]Example[/]

      fedmarket party serve partner.toml
    """
    from fedmarket.node.serve import serve
    from fedmarket.node.settings import load_partner

    _log_to_stderr()
    serve(load_partner(document))


def _log_to_stderr() -> None:
    """Show the package's own lines; what other libraries log is theirs."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("fedmarket")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
