"""Commands for whoever holds customers: hold a table against a contract, score it with a released model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, err, out, print_json, shown
from fedmarket.cli.progress import working
from fedmarket.errors import ContractViolation

if TYPE_CHECKING:
    from fedmarket.contract.check import Profile
    from fedmarket.contract.schema import Contract
    from fedmarket.data.transactions import Counts

CHECKED, SCORED = "fedmarket-checked/1", "fedmarket-scored/1"


def check(
    contract: Annotated[Path, typer.Option(help="The contract, a TOML document.")],
    data: Annotated[Path, typer.Option(help="Your table: csv (also .gz) or parquet.")],
    as_json: Json = False,
) -> None:
    """Hold your own table against a contract; it stays on this machine.

    Lists every broken rule with counts and column names, never a value, and ends with 1; a table that keeps the
    contract gets a short profile of counts. Under a contract with transactions the table holds lines of sale, and what
    becomes of them is counted too.

    [bold]Example[/]

      fedmarket check --contract experiments/demo/contract.toml --data experiments/demo/customers.csv
    """
    from fedmarket.contract.check import check_table
    from fedmarket.contract.schema import load_contract
    from fedmarket.data.tables import read_table
    from fedmarket.data.transactions import customers_with_counts

    agreed = load_contract(contract)
    counts = None
    try:
        with working(f"checking {data.name}"):
            table = read_table(data)
            if agreed.transactions is not None:
                made = customers_with_counts(table, agreed.transactions, source=str(data))
                table, counts = made.table, made.counts
            profile = check_table(table, agreed, source=str(data))
    except ContractViolation as violation:
        if as_json:
            print_json(_checked(agreed, broken=violation.broken))
            raise typer.Exit(1) from None
        heading = f"{data} breaks {len(violation.broken)} rule(s) of {agreed.name}:"
        err.print(f"[bold red]{escape(heading)}[/]", soft_wrap=True)
        for rule in violation.broken:
            err.print(f"  {escape(rule)}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        told = asdict(profile) | {"lines": asdict(counts) if counts else None}
        print_json(_checked(agreed, broken=()) | {"profile": told})
        return
    _print_profile(profile, counts, title=f"{data} keeps contract {agreed.name} ({agreed.hash[:12]})")


def predict(
    model: Annotated[Path, typer.Option(help="A model.safetensors that fedmarket wrote.")],
    contract: Annotated[Path, typer.Option(help="The contract under which it was trained.")],
    data: Annotated[Path, typer.Option(help="Your table; it needs neither label nor value.")],
    output: Annotated[Path, typer.Option(help="Where the scores go: .csv or .parquet.")],
    as_json: Json = False,
) -> None:
    """Score your own customers with a released model; no row leaves this machine.

    Writes your row number (or customer column) with what the model predicts: [bold]response_probability[/],
    [bold]purchase_probability[/], [bold]conditional_spend[/] of a customer who buys, [bold]expected_value[/]. Under a
    contract with transactions the table holds lines of sale, and each customer gets one row.

    [bold]Example[/]

      fedmarket predict --model runs/demo/model.safetensors --contract experiments/demo/contract.toml
      --data customers.csv --output scores.csv
    """
    from fedmarket.contract.schema import load_contract
    from fedmarket.scoring import score_file

    agreed = load_contract(contract)
    with working(f"scoring {data.name}"):
        scored = score_file(model, contract=agreed, data=data, output=output)
    if not scored.private:
        err.print(
            "[bold red]NOT PRIVATE:[/] this model was trained without secret noise; do not release it or its scores",
            soft_wrap=True,
        )
    if as_json:
        print_json({"format": SCORED, "output": str(output.resolve()), **asdict(scored)})
        return
    out.print(f"{scored.customers} customers scored: {escape(shown(output))}", soft_wrap=True)


def _checked(contract: "Contract", *, broken: tuple[str, ...]) -> dict[str, Any]:
    return {
        "format": CHECKED,
        "contract": contract.name,
        "contract_hash": contract.hash,
        "keeps": not broken,
        "broken": broken,
    }


def _print_profile(profile: "Profile", lines: "Counts | None", *, title: str) -> None:
    from rich.table import Table

    out.print(escape(title), soft_wrap=True)
    table = Table("column", "missing", "other", box=None, pad_edge=False)
    for column in profile.columns:
        table.add_row(escape(column.name), str(column.missing), str(column.other))
    out.print(table)
    clipped = profile.clipped_values if lines is None else lines.clipped_values  # what lines give is clipped already
    counts = {"positive": profile.positives, "buyers": profile.buyers, "clipped values": clipped}
    told = [f"{count} {name}" for name, count in counts.items() if count is not None]
    out.print(", ".join([f"{profile.rows} rows", *told]))
    if profile.ignored:
        out.print(f"not in the contract and not read: {escape(', '.join(profile.ignored))}", soft_wrap=True)
    if lines is not None:
        _print_counts(lines)


def _print_counts(counts: "Counts") -> None:
    """Say what became of the lines of sale; a count of none is left out."""
    windows = f"{counts.calibration} in the calibration window, {counts.prediction} in the prediction window"
    out.print(f"{counts.lines} lines: {windows}", soft_wrap=True)
    left_out = {
        "dropped duplicates": counts.duplicates,
        "without a customer": counts.without_customer,
        "before the windows": counts.before_start,
        "after the windows": counts.after_end,
    }
    bounded = {
        "cancelling lines": counts.cancelled,
        "cancellations without enough to take back": counts.unmatched_cancellations,
        "words outside the vocabulary": counts.outside_vocabulary,
        "purchases beyond max_transactions": counts.over_limit,
        "amounts above max_amount": counts.clipped_amounts,
        "customers of the prediction window alone": counts.only_later,
        "customers without a purchase that stands": counts.without_purchase,
    }
    for title, group in (("lines left out", left_out), ("also", bounded)):
        if told := [f"{count} {name}" for name, count in group.items() if count]:
            out.print(f"{title}: {', '.join(told)}", soft_wrap=True)
