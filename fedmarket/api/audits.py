"""``fedmarket.verify``: an auditor's verdict on a bundle. Neither torch nor Flower loads."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from markupsafe import Markup

from fedmarket.federation.roster import load_roster
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.findings import Finding, Verdict
from fedmarket.ledger.verify import verify as verdict_on
from fedmarket.report.audit import render_audit

_SPENT = {
    "party": pl.String,
    "epsilon": pl.Float64,
    "cap": pl.Float64,
    "delta": pl.Float64,
    "per": pl.String,
    "entries": pl.Int64,
    "read_whole": pl.Boolean,
}
_HISTORY = {
    "party": pl.String,
    "sequence": pl.Int64,
    "time": pl.String,
    "run": pl.String,
    "round": pl.Int64,
    "phase": pl.String,
    "count": pl.Int64,
    "epsilon": pl.Float64,
    "cap": pl.Float64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What a bundle is worth.

    Attributes:
        verdict: everything that was found, as values; ``verdict.to_document()`` is what ``--json`` prints.
    """

    verdict: Verdict

    @property
    def good(self) -> bool:
        """Whether everything holds. It is False too where something could not be established."""
        return self.verdict.good

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What does not hold, each with its place."""
        return self.verdict.findings

    @property
    def epsilons(self) -> pl.DataFrame:
        """One row for each party whose ledger could be read, recomputed from its entries.

        The epsilon that it spent (infinite where no noise was added), the cap that it promised, at which delta and per
        what. Where ``read_whole`` is False the rest of the ledger is missing or broken, and epsilon is what was spent
        at least.
        """
        parties, unread = self.verdict.parties, set(self.verdict.unread)
        rows = [(p.name, p.epsilon, p.cap, p.delta, p.per, p.entries, p.name not in unread) for p in parties]
        return pl.DataFrame(rows, schema=_SPENT, orient="row")

    @property
    def history(self) -> pl.DataFrame:
        """One row for each reservation that a party signed: epsilon after it, beside the cap that held then."""
        rows = [
            (party.name, *(getattr(point, name) for name in list(_HISTORY)[1:]))
            for party in self.verdict.parties
            for point in party.points
        ]
        return pl.DataFrame(rows, schema=_HISTORY, orient="row")

    @property
    def html(self) -> str:
        """The page for a compliance officer, self-contained."""
        return render_audit(self.verdict.to_document())

    def __repr__(self) -> str:
        said = ", ".join(f"{question} {found}" for question, found in self.verdict.verdicts.items())
        return f"Audit({said})"

    def _repr_html_(self) -> str:
        verdicts = Markup("").join(
            Markup("<b>{}</b>: {}<br>").format(question, "BROKEN" if found == "broken" else found.replace("-", " "))
            for question, found in self.verdict.verdicts.items()
        )
        lines = Markup("").join(Markup("<li>{}</li>").format(line) for line in self.verdict.lines)
        keys = Markup("<p>keys: {}</p>").format(self.verdict.keys)
        return str(Markup("<p>{}</p>{}<ul>{}</ul>").format(verdicts, keys, lines)) + self.epsilons._repr_html_()


def verify(path: str | Path, *, roster: str | Path | None = None, log_key: str | None = None) -> Audit:
    """Check a privacy ledger's bundle: signatures, chains, log, checkpoints, and every epsilon again.

    Args:
        path: the bundle, a folder or a ``.zip``.
        roster: your own copy of the roster: are these its keys?
        log_key: the log's key as it came to you: is it this one?

    Raises:
        UsageError: if there is nothing at ``path``.
        DataError: if what is there is no bundle.
        ConfigError: if the roster cannot be read.

    Guarantees:
        Whatever a bundle holds, there is an answer. It is good only if every check was made and none failed.
    """
    known = load_roster(Path(roster)).hash.hex() if roster is not None else None
    return Audit(verdict=verdict_on(read_bundle(Path(path)), roster_hash=known, log_key=log_key))
