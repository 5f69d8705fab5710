"""Commands for auditors: whether a bundle holds, and a record of it for a register. Neither torch nor Flower loads."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, out, print_json, shown, warn
from fedmarket.errors import UsageError

if TYPE_CHECKING:
    from fedmarket.ledger.findings import Verdict

_BUNDLE = "bundle.zip"
"""What a run calls its bundle in the folder of its results."""

EXPORTED = "fedmarket-exported/1"

BROKEN = 1
"""Exit code where something does not hold."""

BundlePath = Annotated[Path, typer.Argument(help="The bundle: a folder or a .zip.", show_default=False)]
RosterPath = Annotated[Path | None, typer.Option(help="Your own copy of the roster: are these its keys?")]
LogKey = Annotated[
    str | None, typer.Option(help="The log's key as it came to you, all of NAME+ID+KEY: is it this one?")
]


def verify(
    bundle: BundlePath,
    *,
    roster: RosterPath = None,
    log_key: LogKey = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page for a compliance officer there.")] = None,
    risk: Annotated[Path | None, typer.Option(help="What attacks measured: does it contradict the ledgers?")] = None,
) -> None:
    """Check a privacy ledger's bundle: signatures, chains, log, checkpoints, and every epsilon again.

    Ends with 0 only if everything holds, with 1 if something does not or the bundle cannot be read, and with 2 if there
    is nothing there. What [bold]fedmarket attack[/] measured can refute a ledger, and proves nothing.

    [bold]Example[/]

      fedmarket verify bundle.zip --roster roster.toml --html audit.html
    """
    from fedmarket.files import write_text

    verdict = _verdict(bundle, roster, log_key, risk)
    document = verdict.to_document()
    if html is not None:
        from fedmarket.report.audit import render_audit

        write_text(html, render_audit(document))
    if as_json:
        print_json(document)
    else:
        for line in _lines(verdict):
            out.print(escape(line), soft_wrap=True)
        if html is not None:
            out.print(f"page: {escape(shown(html))}", soft_wrap=True)
    if not verdict.good:
        raise typer.Exit(BROKEN)


def _lines(verdict: "Verdict") -> Iterator[str]:
    """Yield whose keys these are, the verdicts, what is wrong, who spent what, and the verdicts after a long list."""
    verdicts = [
        f"{question}: {'BROKEN' if found == 'broken' else found.replace('-', ' ')}"
        for question, found in verdict.verdicts.items()
    ]
    yield f"keys: {verdict.keys}"
    yield f"roster: {verdict.roster_hash}"
    yield f"log key: {verdict.log_key}"
    yield from _evidence(verdict)
    yield from verdicts
    yield from verdict.lines
    for party in verdict.parties:
        known = "at least, as the rest was not read: " if party.name in verdict.unread else ""
        yield (
            f"{party.name}: {known}epsilon {party.epsilon:.4f} of a cap of {party.cap:g} per {party.per}, "
            f"delta {party.delta:g}"
        )
    read = {party.name for party in verdict.parties}
    yield from (f"{name}: epsilon unknown, as nothing was read" for name in verdict.unread if name not in read)
    yield verdict.overlap.words
    if verdict.measured is not None:
        yield "risk document: read; what contradicts the ledgers is a finding, and nothing in it confirms them"
    yield from (f"to ask: {question}" for question in verdict.questions)
    if verdict.lines:
        yield from verdicts


def _evidence(verdict: "Verdict") -> Iterator[str]:
    found = verdict.evidence
    form = "the zip" if found.bundle_form == "zip" else "the list of its files"
    version, code = found.checker
    yield f"bundle: SHA-256 of {form} {found.bundle_hash}"
    yield f"checked: {found.time} by fedmarket {version}, code {code[:12]}"
    if last := found.checkpoint:
        latest = f", the latest {last.time}" if last.time else ""
        yield f"last checkpoint: {last.size} entries, root {last.root[:12]}, cosigners {last.cosigners}{latest}"


def export(
    bundle: BundlePath,
    registry: Annotated[Path, typer.Option(help="Where the record goes, as JSON.", show_default=False)],
    roster: RosterPath = None,
    log_key: LogKey = None,
    as_json: Json = False,
) -> None:
    """Write a record of the released models for the Differential Privacy Deployments Registry.

    Only of a bundle that holds.

    [bold]Example[/]

      fedmarket export bundle.zip --registry deployment.json --roster roster.toml --log-key 'NAME+ID+KEY'
    """
    import json

    from fedmarket.files import write_text
    from fedmarket.ledger.registry import registry_of

    verdict = _verdict(bundle, roster, log_key)
    document = registry_of(verdict)
    write_text(registry, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    if not (verdict.roster_compared and verdict.log_key_compared):
        warn(f"keys: {verdict.keys}")
    records = len(document["records"])
    if as_json:
        print_json({"format": EXPORTED, "registry": str(registry.resolve()), "records": records})
        return
    out.print(f"{records} {'record' if records == 1 else 'records'}: {escape(shown(registry))}", soft_wrap=True)


def _verdict(bundle: Path, roster: Path | None, log_key: str | None, risk: Path | None = None) -> "Verdict":
    from fedmarket.attacks.measured import read_measured
    from fedmarket.federation.roster import load_roster
    from fedmarket.ledger.bundle import read_bundle
    from fedmarket.ledger.verify import verify as verdict_on

    if (bundle / _BUNDLE).is_file():
        raise UsageError(f"{bundle}: a folder of results; the bundle in it is {bundle / _BUNDLE}")
    known = load_roster(roster).hash.hex() if roster is not None else None
    measured = read_measured(risk) if risk is not None else None
    return verdict_on(read_bundle(bundle), roster_hash=known, log_key=log_key, measured=measured)
