"""A rehearsal: one machine plays all parties and the server, with keys and books of their own in one folder.

Good for a simulation and for nothing else. The folder holds ``roster.toml``; for each place in it an identity
``00.pem`` and, with books, the party's folder ``00``; the server's identity ``log.pem`` and its folder ``log``.
"""

from collections.abc import Iterable
from pathlib import Path

from fedmarket.errors import ConfigError, UsageError
from fedmarket.federation.books import Books, plan_of
from fedmarket.federation.bundling import assumed, bundled
from fedmarket.federation.identity import Identity, load_identity, new_identity, save_identity
from fedmarket.federation.logbook import Logbook, cosigned_notes
from fedmarket.federation.roster import Member, Roster, load_roster, new_roster
from fedmarket.federation.seat import Seat
from fedmarket.federation.terms import Terms
from fedmarket.files import write_text
from fedmarket.ledger.bundle import Bundle
from fedmarket.ledger.lines import whole_lines
from fedmarket.ledger.note import VerifierKey
from fedmarket.privacy.plan import PrivacyPlan

ROSTER_FILE = "roster.toml"
LOG = "log"
ORIGIN = "fedmarket.invalid/rehearsal"
"""Name of a rehearsed server's log."""


def rehearse(folder: Path, names: Iterable[str], *, minimum_survivors: int | None = None) -> Path:
    """Make fresh identities and the roster for simulated parties in ``folder``, and return the roster's path.

    Args:
        folder: where they go.
        names: of the parties.
        minimum_survivors: how many a masked sum needs; None where sums are in the open, among as few as one party.

    Raises:
        ConfigError: if the names or their number break a rule of rosters.
        UsageError: if the folder holds identities already, or cannot be written.
    """
    identities, roster = _rehearsed(names, minimum_survivors)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror or error})") from None
    for place, name in enumerate(roster.names):
        save_identity(identities[name], _identity_file(folder, place))
    save_identity(new_identity(), folder / f"{LOG}.pem")
    path = folder / ROSTER_FILE
    write_text(path, roster.to_toml())
    return path


def need_rehearsable(names: Iterable[str], *, minimum_survivors: int) -> None:
    """Refuse parties for whom :func:`rehearse` could make no roster for secure aggregation.

    Raises:
        ConfigError: with the rule that they break.
    """
    _rehearsed(names, minimum_survivors)


def load_seat(roster_path: Path, name: str) -> Seat:
    """Return the seat of the simulated party ``name``.

    Raises:
        ConfigError: if roster or identity are missing or do not fit together.
    """
    identity, roster, _ = _member(roster_path, name)
    return Seat(identity=identity, roster=roster)


def open_books(roster_path: Path, name: str, *, plan: PrivacyPlan, cap: float, rows: tuple[str, str]) -> Books:
    """Return the books of the simulated party ``name``; see :meth:`fedmarket.federation.books.Books.open`.

    Raises:
        FedmarketError: what keeps them from being opened.
    """
    identity, _, folder = _member(roster_path, name)
    log = _log_key(roster_path.parent)
    return Books.open(folder, identity, party=name, plan=plan, cap=cap, rows=rows, log=log)


def open_logbook(roster_path: Path) -> Logbook:
    """Return the simulated server's logbook.

    Raises:
        FedmarketError: what keeps it from being opened.
    """
    folder, roster = roster_path.parent, load_roster(roster_path)
    return Logbook.open(folder / LOG, load_identity(folder / f"{LOG}.pem"), origin=ORIGIN, roster=roster)


def bundle_of_rehearsal(roster_path: Path, run: bytes, terms: Terms) -> Bundle:
    """Return what an auditor is handed of a run: the files that each party and the server wrote.

    Raises:
        UsageError: if a file is missing.
    """
    folder, roster = roster_path.parent, load_roster(roster_path)
    places = range(len(roster.names))
    return bundled(
        roster,
        log_key=_log_key(folder),
        runs=(assumed(run.hex(), plan_of(terms)),),
        ledgers=(whole_lines(_books_folder(folder, place) / "ledger.jsonl") for place in places),
        log=whole_lines(folder / LOG / "log.jsonl"),
        checkpoints=cosigned_notes(folder / LOG),
    )


def _rehearsed(names: Iterable[str], minimum_survivors: int | None) -> tuple[dict[str, Identity], Roster]:
    identities = {name: new_identity() for name in names}
    members = [Member(name=name, public_key=identity.public_key) for name, identity in identities.items()]
    try:
        roster = new_roster(members, minimum_survivors=minimum_survivors)
        if minimum_survivors is not None:
            roster.need_maskable()
    except ConfigError as error:
        raise ConfigError(
            f"aggregation.secagg: secure aggregation is not possible here ({error}); "
            "change that, or sum in the open with aggregation.secagg=ideal"
        ) from None
    return identities, roster


def _member(roster_path: Path, name: str) -> tuple[Identity, Roster, Path]:
    roster = load_roster(roster_path)
    place = roster.index(name)
    if place is None:
        raise ConfigError(f"{roster_path}: {name} is not in this roster")
    folder = roster_path.parent
    return load_identity(_identity_file(folder, place)), roster, _books_folder(folder, place)


def _log_key(folder: Path) -> VerifierKey:
    return VerifierKey(name=ORIGIN, public_key=load_identity(folder / f"{LOG}.pem").public_key)


def _books_folder(folder: Path, place: int) -> Path:
    return folder / f"{place:02}"


def _identity_file(folder: Path, place: int) -> Path:
    return folder / f"{place:02}.pem"
