"""Commands for auditors: whether a bundle holds, and a record of it for a register. Neither torch nor Flower loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import out, shown

if TYPE_CHECKING:
    from fedmarket.ledger.findings import Verdict

BROKEN = 1
"""Exit code where something does not hold."""

BundlePath = Annotated[Path, typer.Argument(help="The bundle: a folder or a .zip.", show_default=False)]
RosterPath = Annotated[Path | None, typer.Option(help="Your own copy of the roster: are these its keys?")]
LogKey = Annotated[str | None, typer.Option(help="The log's key as it came to you: is it this one?")]


def verify(
    bundle: BundlePath,
    roster: RosterPath = None,
    log_key: LogKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON document.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page for a compliance officer there.")] = None,
) -> None:
    """Check a privacy ledger's bundle: signatures, chains, log, checkpoints, and every epsilon again.

    Ends with 0 only if everything holds; else with 1 and one finding a line.

    [bold]Example[/]

      fedmarket verify bundle.zip --roster roster.toml --html audit.html
    """
    import json

    from fedmarket.files import write_text

    verdict = _verdict(bundle, roster, log_key)
    document = verdict.to_document()
    if html is not None:
        from fedmarket.report.audit import render_audit

        write_text(html, render_audit(document))
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        for finding in verdict.findings:
            out.print(escape(str(finding)), soft_wrap=True)
        for question, held in document["verdicts"].items():
            out.print(f"{question}: {'holds' if held else 'BROKEN'}", soft_wrap=True)
        for party in verdict.parties:
            known = "at least, as the rest was not read: " if party.name in verdict.unread else ""
            out.print(
                f"{escape(party.name)}: {known}epsilon {party.epsilon:.4f} of a cap of {party.cap:g}, "
                f"delta {party.delta:g}",
                soft_wrap=True,
            )
        out.print(escape(verdict.overlap.words), soft_wrap=True)
        for question in verdict.questions:
            out.print(f"to ask: {escape(question)}", soft_wrap=True)
        if html is not None:
            out.print(f"page: {escape(shown(html))}", soft_wrap=True)
    if not verdict.good:
        raise typer.Exit(BROKEN)


def export(
    bundle: BundlePath,
    registry: Annotated[Path, typer.Option(help="Where the record goes, as JSON.", show_default=False)],
    roster: RosterPath = None,
    log_key: LogKey = None,
) -> None:
    """Write a record of the released models for the Differential Privacy Deployments Registry.

    Only of a bundle that holds.

    [bold]Example[/]

      fedmarket export bundle.zip --registry deployment.json
    """
    import json

    from fedmarket.files import write_text
    from fedmarket.ledger.registry import registry_of

    document = registry_of(_verdict(bundle, roster, log_key))
    write_text(registry, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    out.print(f"{len(document['records'])} record(s): {escape(shown(registry))}", soft_wrap=True)


def _verdict(bundle: Path, roster: Path | None, log_key: str | None) -> "Verdict":
    from fedmarket.federation.roster import load_roster
    from fedmarket.ledger.bundle import read_bundle
    from fedmarket.ledger.verify import verify as verdict_on

    known = load_roster(roster).hash.hex() if roster is not None else None
    return verdict_on(read_bundle(bundle), roster_hash=known, log_key=log_key)
