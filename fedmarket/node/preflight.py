"""Everything that must be right before a node serves, looked at in one go; a node that runs meanwhile is not disturbed.

Counts and hashes only: nothing here shows a cell or a key. The one thing that may be written is the key of the split,
where the ledger's folder has none yet.
"""

import platform
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedmarket.errors import ContractViolation, FedmarketError, UsageError
from fedmarket.federation.books import SALT, plan_of
from fedmarket.federation.identity import Identity, load_identity
from fedmarket.federation.party import Party
from fedmarket.ledger.canonical import real
from fedmarket.ledger.code import installed_code
from fedmarket.ledger.entries import commitment, moment
from fedmarket.ledger.look import Look, look
from fedmarket.node.agreement import Agreement, agreement_of, seat_of
from fedmarket.node.policy import breaches
from fedmarket.node.rows import OwnRows, own_rows
from fedmarket.node.serve import callers_of, need_safe_folder
from fedmarket.node.settings import MarketRows, Partner, load_partner

LEAST_FREE = 1 << 28
"""Bytes on the ledger's disk."""

LEAST_DAYS = 7
"""That the server's certificate must be good for."""

_SHORT = 12
_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One line: what was looked at, whether it is as it should be, and what was found."""

    what: str
    good: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the SuperNode will connect, and the certificates that it will trust; None for the machine's."""

    host: str
    port: int
    certificates: Path | None


@dataclass(slots=True, kw_only=True)
class _Look:
    """What has been found so far; a check that needs what is not there says nothing, as another one said why."""

    partner: Partner
    server: Server | None
    now: datetime
    agreement: Agreement | None = None
    identity: Identity | None = None
    own: OwnRows | None = None
    ledger: Look | None = None
    problems: list[str] = field(default_factory=list)


def preflight(document: Path, *, server: Server | None = None, now: datetime | None = None) -> Iterator[Found]:
    """Give one line for each check, the good ones too; what is wrong keeps no other check from being made.

    Args:
        document: the partner's.
        server: to look whether the network lets a SuperNode through; nothing is connected to without it.
        now: by default the machine's clock.
    """
    yield Found(what="versions", good=True, words=_versions())
    try:
        partner = load_partner(document)
    except FedmarketError as error:
        yield Found(what="document", good=False, words=str(error))
        return
    looked = _Look(partner=partner, server=server, now=now or datetime.now(UTC))
    for what, check in _CHECKS.items():
        try:
            words = check(looked)
            problems, looked.problems = looked.problems, []
        except ContractViolation as violation:
            words, problems = "", list(violation.broken)
        except FedmarketError as error:
            words, problems = "", [str(error)]
        if words and not problems:
            yield Found(what=what, good=True, words=words)
        for problem in problems:
            yield Found(what=what, good=False, words=problem)


def _document(looked: _Look) -> str:
    return f"party {looked.partner.name}, declares {looked.partner.section.declared_rows} rows"


def _federation(looked: _Look) -> str:
    looked.agreement = agreement_of(looked.partner)
    terms = looked.agreement.terms
    return (
        f"{terms.rounds} rounds of a {terms.model.kind} model, epsilon {terms.plan.spent().epsilon:.4f}, "
        f"terms {terms.hash}, contract {terms.contract_hash}"
    )


def _policy(looked: _Look) -> str:
    if looked.agreement is None:
        return ""
    section = looked.partner.section
    rehearsal = isinstance(section.data, MarketRows)
    looked.problems += breaches(section.policy, looked.agreement.terms, rehearsal=rehearsal)
    if rehearsal and not looked.agreement.terms.plan.private:
        return "the terms keep it; NOT PRIVATE: noise comes from a seed, and rows from a simulated market"
    return "the terms keep it"


def _identity(looked: _Look) -> str:
    looked.identity = load_identity(looked.partner.identity)
    return f"public key {looked.identity.public_hex}"


def _roster(looked: _Look) -> str:
    if looked.identity is None or looked.agreement is None:
        return ""
    seat = seat_of(looked.partner, looked.identity, looked.agreement.terms)
    if seat is None:
        return "the key is in it; sums are in the open"
    spare = len(seat.roster.members) - seat.roster.minimum_survivors
    return f"{len(seat.roster.members)} members, {spare} may be lost in a round, hash {seat.roster.hash.hex()}"


def _data(looked: _Look) -> str:
    if looked.agreement is None:
        return ""
    own = own_rows(looked.partner, looked.agreement)
    Party(
        name=looked.partner.name,
        terms=looked.agreement.terms,
        rows=own.rows,
        held_out=own.held_out,
        declared_rows=looked.partner.section.declared_rows,
    )
    looked.own = own
    return f"{len(own.rows.features)} rows to train on, {len(own.held_out.features)} held out, all keep the contract"


def _ledger(looked: _Look) -> str:
    books = looked.partner.books
    if not (books / "ledger.jsonl").exists():
        return f"none yet; it begins with a cap of {looked.partner.section.cap:g} when the node serves"
    looked.ledger = look(books)
    state = looked.ledger.state
    if looked.identity is not None and state.public_key != looked.identity.public_key:
        looked.problems.append(f"{books}: another key signs this ledger, {state.public_key.hex()[:12]}")
    if state.party != looked.partner.name:
        looked.problems.append(f"{books}: the ledger of another party")
    salt = books / SALT
    if looked.own is not None and salt.exists() and not state.destroyed:
        try:
            found = commitment(*looked.own.hashes, salt=salt.read_bytes())
        except OSError as error:
            raise UsageError(f"{salt}: cannot be read ({error.strerror or error})") from None
        if found != state.data_set:
            looked.problems.append(
                f"{books}: the ledger is of other rows; these are {found}; if they were replaced, "
                "say so: fedmarket ledger replace-data"
            )
    return f"{state.size} entries, every signature checked"


def _budget(looked: _Look) -> str:
    if looked.agreement is None:
        return ""
    terms, cap = looked.agreement.terms, looked.partner.section.cap
    before, after = 0.0, terms.plan.spent().epsilon
    if looked.ledger is not None:
        state = looked.ledger.state
        if state.destroyed:
            raise UsageError(f"{looked.partner.books}: the ledger says that its data set is destroyed")
        cap, before, after = real(state.cap), state.spent().epsilon, state.need_affordable(plan_of(terms)).epsilon
    if not after <= cap:
        looked.problems.append(f"a run would bring epsilon from {before:.4f} to {after:.4f}; the cap is {cap:g}")
    return f"epsilon {before:.4f} of {cap:g} spent, {after:.4f} after one more run"


def _socket(looked: _Look) -> str:
    need_safe_folder(looked.partner.socket)
    callers = callers_of(looked.partner.section.socket)
    return f"{looked.partner.socket}, mode {callers.mode:o}, {len(callers.users)} user(s) may ask"


def _disk(looked: _Look) -> str:
    books = looked.partner.books
    there = next(folder for folder in (books, *books.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        looked.problems.append(f"{there}: {free >> 20} MiB free, expected {LEAST_FREE >> 20} or more")
    return f"{free >> 20} MiB free for the ledger"


def _clock(looked: _Look) -> str:
    """A clock before what was written already is wrong, and hours and days of the policy with it."""
    now = moment(looked.now)
    written = moment(datetime.fromtimestamp(looked.partner.source.stat().st_mtime, UTC))
    if now < written:
        looked.problems.append(f"it is {now}, but {looked.partner.source.name} was written at {written}")
    if looked.ledger is not None and now < (last := looked.ledger.entries[-1].head.time):
        looked.problems.append(f"it is {now}, but the ledger's last entry is of {last}")
    return now


def _server(looked: _Look) -> str:
    server = looked.server
    if server is None:
        return ""
    where = f"{server.host}:{server.port}"
    try:
        context = ssl.create_default_context(cafile=str(server.certificates) if server.certificates else None)
    except OSError as error:
        raise UsageError(f"{server.certificates}: cannot be used ({error.strerror or error})") from None
    try:
        with (
            socket.create_connection((server.host, server.port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as secured,
        ):
            told = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise UsageError(f"{where}: the certificate does not hold ({error.verify_message})") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: cannot be reached with TLS ({getattr(error, 'strerror', None) or error})") from None
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(told["notAfter"])), UTC)
    days = (until - looked.now).days
    if days < LEAST_DAYS:
        looked.problems.append(f"{where}: its certificate ends on {until:%Y-%m-%d}, in {days} days")
    return f"{where} reached with TLS, certificate until {until:%Y-%m-%d}"


def _versions() -> str:
    code = installed_code()
    try:
        flower = version("flwr")
    except PackageNotFoundError:
        flower = "not installed here"
    return f"fedmarket {code.version} (code {code.hash}), Python {platform.python_version()}, flwr {flower}"


_CHECKS: dict[str, Callable[[_Look], str]] = {
    "document": _document,
    "federation": _federation,
    "policy": _policy,
    "identity": _identity,
    "roster": _roster,
    "data": _data,
    "ledger": _ledger,
    "budget": _budget,
    "socket": _socket,
    "disk": _disk,
    "clock": _clock,
    "server": _server,
}
"""In this order: later ones use what earlier ones found."""
