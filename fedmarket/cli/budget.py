"""Commands for a party's ledger: what its customers' privacy has cost, what a run would cost, and what is changed.

Looking needs neither key nor lock, and works while the node runs. A change is one signed entry: it needs the identity,
and a node that is stopped.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, err, fail, group, out, print_json, shown
from fedmarket.errors import BadMessage, Refusal, UsageError

if TYPE_CHECKING:
    from fedmarket.federation.terms import Terms
    from fedmarket.ledger.entries import Statement
    from fedmarket.ledger.planned import Plan
    from fedmarket.ledger.replay import State
    from fedmarket.ledger.store import Ledger

budget_app = group(
    "What a party's customers have spent, and what a run would cost.",
    example="fedmarket budget show books/alpha-bank",
)
ledger_app = group(
    "What becomes of a party's data, models and key.",
    example='fedmarket ledger withdraw books/alpha-bank 8b1a9953c461 --identity identity.pem --reason "a wrong column"',
)

PLANNED, CHANGED = "fedmarket-planned/1", "fedmarket-changed/1"

FEWEST = 8
"""Digits of a released model's hash that are enough to name it."""

Folder = Annotated[Path, typer.Argument(help="The party's folder with ledger.jsonl.", show_default=False)]
IdentityPath = Annotated[
    Path, typer.Option("--identity", help="The private key that signs this ledger.", show_default=False)
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, in one line; auditors read it.", show_default=False)
]


@budget_app.command("show")
def budget_show(
    folder: Folder,
    as_json: Json = False,
) -> None:
    """Show what was spent on each data set, in each run, and what was changed.

    Every signature and rule is checked, and every epsilon is found anew. Nothing is written and no key is needed; the
    node may be running.

    [bold]Example[/]

      fedmarket budget show books/alpha-bank
    """
    from fedmarket.ledger.look import look
    from fedmarket.report.budget import print_budget

    document = look(folder).to_document()
    if as_json:
        print_json(document)
    else:
        print_budget(document, out)


@budget_app.command("plan")
def budget_plan(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    folder: Annotated[
        Path | None, typer.Argument(help="The party's folder; without it, the run alone.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for this plan; repeatable.")
    ] = None,
    releases: Annotated[bool, typer.Option("--releases", help="List what the run would release, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run would cost on top of what is spent; ends with 1 if the cap forbids it.

    Nothing is written, and no key is needed.

    [bold]Examples[/]

      fedmarket budget plan experiments/demo/config.toml books/alpha-bank

      fedmarket budget plan experiments/demo/config.toml --set privacy.epsilon=0.5 --releases
    """
    from fedmarket.report.budget import print_cost, print_fit

    terms, plan = _planned(config, tuple(set_ or ()))
    cost, fit = _cost(terms, plan), _fit(folder, plan) if folder else None
    if as_json:
        print_json({"format": PLANNED, "run": _listed(cost), "party": fit})
    else:
        print_cost(cost, out, releases=releases)
        if fit:
            print_fit(fit, out)
    if fit and fit["refusal"]:
        fail(fit["refusal"], Refusal.exit_code)


@budget_app.command("set-cap")
def budget_set_cap(
    folder: Folder,
    cap: Annotated[str, typer.Argument(metavar="CAP", help="The new cap on epsilon.", show_default=False)],
    identity: IdentityPath,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set another cap on epsilon, as a signed entry with its reason.

    A cap below what is spent is allowed: then nothing more is released.

    [bold]Example[/]

      fedmarket budget set-cap books/alpha-bank 4 --identity identity.pem --reason "agreed with the board"
    """
    from fedmarket.ledger.canonical import decimal, real

    new = decimal(_cap(cap))
    with _ledger(folder, identity) as ledger:
        _need_data(ledger.state, folder)
        if real(new) == real(ledger.state.cap):
            raise UsageError(f"{folder}: the cap is {real(new):g} already; nothing was written")
        _append(ledger, "cap-changed", old=ledger.state.cap, new=new, reason=reason, as_json=as_json)


@ledger_app.command("replace-data")
def ledger_replace_data(
    folder: Folder,
    commitment: Annotated[str, typer.Argument(help="Of the new rows, as the node printed it.", show_default=False)],
    *,
    identity: IdentityPath,
    reason: Reason,
    no_customer_in_both: Annotated[
        bool, typer.Option("--no-customer-in-both", help="Nobody is in both: what was spent does not count on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say that the party's rows are others from here on.

    A node that finds other rows than the ledger's refuses, and prints the new rows' commitment of 64 digits. What was
    spent counts on for them, unless no customer is in both.

    [bold]Example[/]

      fedmarket ledger replace-data books/alpha-bank 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      --identity identity.pem --reason "customers of 2026"
    """
    with _ledger(folder, identity) as ledger:
        old = ledger.state.data_set
        _need_data(ledger.state, folder)
        if commitment == old:
            raise UsageError(f"{folder}: the ledger is of these rows already; nothing was written")
        overlap = not no_customer_in_both
        _append(ledger, "data-replaced", old=old, new=commitment, overlap=overlap, reason=reason, as_json=as_json)


@ledger_app.command("destroyed")
def ledger_destroyed(
    folder: Folder,
    identity: IdentityPath,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say that the party's rows are gone. Nothing is released with this ledger any more, and there is no way back.

    [bold]Example[/]

      fedmarket ledger destroyed books/alpha-bank --identity identity.pem --reason "the campaign is over"
    """
    with _ledger(folder, identity) as ledger:
        _need_data(ledger.state, folder)
        if not yes:
            _ask(f"{ledger.state.party}: nothing will be released with this ledger any more", "destroyed")
        _append(ledger, "data-destroyed", data_set=ledger.state.data_set, reason=reason, as_json=as_json)


@ledger_app.command("withdraw")
def ledger_withdraw(
    folder: Folder,
    model: Annotated[
        str, typer.Argument(metavar="MODEL_HASH", help=f"Its first {FEWEST} digits or more.", show_default=False)
    ],
    identity: IdentityPath,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Say that a released model is no longer to be used. What it cost stays spent.

    The first digits of its hash, as [bold]budget show[/] prints them, are enough.

    [bold]Example[/]

      fedmarket ledger withdraw books/alpha-bank 8b1a9953c461 --identity identity.pem --reason "a column was wrong"
    """
    with _ledger(folder, identity) as ledger:
        _append(ledger, "withdrawn", model_hash=_released(ledger.state, model, folder), reason=reason, as_json=as_json)


@ledger_app.command("rotate-key")
def ledger_rotate_key(
    folder: Folder,
    new_key: Annotated[Path, typer.Argument(help="The new private key; see keys new.", show_default=False)],
    identity: IdentityPath,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Hand the ledger over to a new key. The old one, in --identity, signs that.

    [bold]Example[/]

      fedmarket ledger rotate-key books/alpha-bank new.pem --identity identity.pem --reason "a new machine"
    """
    from fedmarket.federation.identity import load_identity

    new = load_identity(new_key)
    with _ledger(folder, identity) as ledger:
        if new.public_key == ledger.state.public_key:
            raise UsageError(f"{new_key}: this key signs the ledger already; nothing was written")
        _append(ledger, "rotated", public_key=new.public_hex, reason=reason, as_json=as_json)
    if not as_json:
        out.print(
            escape(
                f"only {shown(new_key)} signs here now; a run is joined with the key that opened the ledger alone. "
                "The new one:"
            ),
            soft_wrap=True,
        )
        out.print(new.public_hex, soft_wrap=True)


@contextmanager
def _ledger(folder: Path, identity: Path) -> "Iterator[Ledger]":
    """Open the ledger in ``folder`` under the name that it has."""
    from fedmarket.federation.identity import load_identity
    from fedmarket.ledger.look import look
    from fedmarket.ledger.store import Ledger

    state, key = look(folder).state, load_identity(identity)
    if key.public_key != state.public_key:
        raise UsageError(
            f"{identity}: not the key that signs {folder}; that one's public half is {state.public_key.hex()}"
        )
    with Ledger.open(folder, key, party=state.party) as ledger:
        yield ledger


def _append(ledger: "Ledger", kind: str, *, as_json: bool, **document: Any) -> None:
    """Write one entry, and say what it says and what is left; what the user typed wrong is a UsageError."""
    from fedmarket.ledger.canonical import real
    from fedmarket.ledger.entries import KINDS
    from fedmarket.ledger.fields import parsed
    from fedmarket.report.budget import change_in_words, left_in_words

    try:
        statement: Statement = parsed(KINDS[kind], document)
    except BadMessage as error:
        raise UsageError(f"{error}; nothing was written") from None
    ledger.append(statement)
    state, said = ledger.state, statement.model_dump()
    spent, cap = state.spent().epsilon, real(state.cap)
    if as_json:
        place = {"party": state.party, "entry": state.size - 1}
        print_json({"format": CHANGED, **place, "statement": said, "epsilon": spent, "cap": cap})
        return
    what, why = change_in_words(said)
    out.print(escape(f"entry {state.size - 1} of {state.party}: {what} ({why})"), soft_wrap=True)
    if kind != "rotated":
        out.print(left_in_words(spent, cap, destroyed=state.destroyed), soft_wrap=True)


def _need_data(state: "State", folder: Path) -> None:
    if state.destroyed:
        raise UsageError(f"{folder}: the data set is destroyed; only withdraw and rotate-key are possible any more")


def _ask(question: str, word: str) -> None:
    """Go on only if the user types ``word``."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to ask; nothing was written (--yes goes on without)")
    err.print(question, soft_wrap=True, markup=False)
    if input(f"Type {word} to go on: ").strip() != word:
        raise UsageError(f"not {word}; nothing was written")


def _cap(text: str) -> float:
    try:
        cap = float(text)
    except ValueError:
        cap = math.nan
    if not 0 < cap < math.inf:
        raise UsageError(f"CAP: expected a number above 0, got {text!r}")
    return cap


def _released(state: "State", beginning: str, folder: Path) -> str:
    """Return the one released model whose hash begins so."""
    from fedmarket.report.budget import SHORT

    found = [model for model in state.released if model.startswith(beginning)]
    if len(beginning) >= FEWEST and len(found) == 1:
        return found[0]
    known = ", ".join(model[:SHORT] for model in state.released) or "none"
    raise UsageError(f"{folder}: expected {FEWEST} digits or more of one released model ({known}), got {beginning!r}")


def _planned(config: Path, changes: tuple[str, ...]) -> "tuple[Terms, Plan]":
    """Return the terms of the arm that is released, and their plan as a ledger writes it."""
    from fedmarket.config import load_config
    from fedmarket.contract.schema import load_contract
    from fedmarket.experiment.arms import JOINT, arm_named, terms_of
    from fedmarket.federation.books import plan_of

    settings = load_config(config, changes=changes)
    contract = load_contract(Path(settings.data.contract))
    terms = terms_of(arm_named(JOINT), settings, contract, seed=settings.seeds[0])
    return terms, plan_of(terms)


def _cost(terms: "Terms", plan: "Plan") -> dict[str, Any]:
    """Return what the run alone spends, and against whom that holds."""
    from fedmarket.ledger.spending import observers_of

    spent = terms.plan.spent()
    return {
        "epsilon": spent.epsilon,
        "delta": spent.delta,
        "accountants": spent.accountants,
        "private": terms.plan.private,
        "observers": observers_of(plan, masked=terms.secagg == "secure"),
        "mechanisms": terms.plan.mechanisms,
    }


def _listed(cost: dict[str, Any]) -> dict[str, Any]:
    """Return a cost as JSON has it: who looks and what is released as lists of objects."""
    keys = ("phase", "releases", "noise_multiplier", "clip_norm", "sample_rate")
    return cost | {
        "observers": [dict(zip(("name", "words", "epsilon"), one, strict=True)) for one in cost["observers"]],
        "mechanisms": [{key: getattr(one, key) for key in keys} for one in cost["mechanisms"]],
    }


def _fit(folder: Path, plan: "Plan") -> dict[str, Any]:
    """Return what the party would have spent after the run, or the refusal in its place."""
    from fedmarket.ledger.canonical import real
    from fedmarket.ledger.look import look

    looked = look(folder)
    state, opened, after, refusal = looked.state, looked.opened, None, ""
    try:
        if state.destroyed:
            raise Refusal("budget: the data set is destroyed, nothing is released with this ledger any more")
        after = state.need_affordable(plan).epsilon
    except (BadMessage, Refusal) as error:  # one that could not be joined at all, or not paid for
        refusal = str(error)
    return {
        "party": state.party,
        "delta": real(opened.delta),
        "before": state.spent().epsilon,
        "after": after,
        "cap": real(state.cap),
        "refusal": refusal,
        "unfinished": sum(
            any(run.left.values()) and run.joined.data_set == state.data_set and name not in state.released.values()
            for name, run in state.runs.items()
        ),
    }
