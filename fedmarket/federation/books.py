"""A party's books: its ledger, and what it has seen of the server's log, in one folder that only it writes.

The order that makes them worth something, for each release: reserved and on disk; in the server's log, as a proof
shows; computed; its hash on disk as committed; sent. So what was never committed never left.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fedmarket.aggregation.secagg.suite import Signer
from fedmarket.errors import BadMessage, ConfigError, DataError, Refusal, UsageError
from fedmarket.federation.messages import Shown, Told
from fedmarket.federation.terms import Terms
from fedmarket.files import appearing, sha256_of
from fedmarket.ledger.canonical import decimal, real
from fedmarket.ledger.code import installed_code
from fedmarket.ledger.entries import Committed, Joined, Opened, Released, Reserved, Voided, commitment
from fedmarket.ledger.log import Witness
from fedmarket.ledger.merkle import leaf_hash, need_included
from fedmarket.ledger.note import VerifierKey, read_checkpoint, read_note
from fedmarket.ledger.planned import Plan, planned
from fedmarket.ledger.store import Ledger
from fedmarket.privacy.plan import PrivacyPlan

SALT = "salt"
_SALT_SIZE = 32


@dataclass(slots=True, kw_only=True)
class Books:
    """See the module; made by :meth:`open`.

    Attributes:
        refused: where a checkpoint is kept that contradicts one seen before. While it is there, nothing is released.
        proved: how many of the ledger's entries the log was proved to hold.
    """

    ledger: Ledger = field(repr=False)
    witness: Witness = field(repr=False)
    refused: Path
    proved: int = 0
    _cosignature: bytes = b""

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Signer,
        *,
        party: str,
        plan: PrivacyPlan,
        cap: float,
        rows: tuple[str, str],
        log: VerifierKey,
    ) -> Self:
        """Open or begin the books in ``folder``.

        Args:
            folder: one for each party and data set in use.
            identity: signs the entries and the checkpoints.
            party: name of the party.
            plan: says unit, adjacency and delta; they stay as they were when the books were begun.
            cap: on epsilon, where the books are begun; ``fedmarket budget set-cap`` changes it.
            rows: hashes of the rows trained on and of the rows held out.
            log: key of the server's log, as it was agreed.

        Raises:
            UsageError: if another process holds the folder, it cannot be used, or the books are of other rows.
            ConfigError: if the books were begun with another unit, adjacency or delta.
            DataError: if a file is damaged.
        """
        ledger = Ledger.open(folder, identity, party=party)
        try:
            opened = Opened(
                public_key=identity.public_key.hex(),
                data_set=commitment(*rows, salt=_salt(folder, new=not ledger.state.size)),
                unit=plan.unit,
                adjacency=plan.adjacency,
                delta=decimal(plan.delta),
                cap=decimal(cap),
                code=installed_code(),
            )
            if not ledger.state.size:
                ledger.append(opened)
            _need_same(ledger, opened, folder)
            seen = folder / f"seen-{log.id.hex()}.note"  # one for each server that the data set is used with
            witness = Witness(seen, log=log, signer=identity)
            return cls(ledger=ledger, witness=witness, refused=seen.with_name(f"{seen.name}.refused"))
        except BaseException:
            ledger.close()
            raise

    def join(self, run: bytes, terms: Terms, *, roster_hash: str) -> None:
        """Enter a run, if all that it plans can be paid for; twice the same is once.

        What an earlier run reserved and never settled is spent from now on, whatever became of it.

        Raises:
            BadMessage: if the run was joined on other terms.
            Refusal: if the whole run would pass the cap.
            PlanError: if its epsilon cannot be accounted.
        """
        joined = Joined(
            run=run.hex(),
            data_set=self.ledger.state.data_set,
            terms_hash=terms.hash,
            contract_hash=terms.contract_hash,
            roster_hash=roster_hash or None,
            code=installed_code(),
            plan=plan_of(terms),
        )
        before = self.ledger.state.runs.get(joined.run)
        if before is not None:
            if before.joined != joined:
                raise BadMessage("this run was joined on other terms")
            return
        self.ledger.state.need_affordable(joined.plan)
        self._settle_all(left=True, reason="another run was joined")
        self.ledger.append(joined)

    def enter(self, run: bytes, round_number: int, *, terms: Terms) -> None:
        """Reserve what a round releases. What the run reserved before and never committed had not left: given back.

        Raises:
            BadMessage: if the run is not joined, or the round was entered before.
            Refusal: if plan or cap forbid it.
        """
        self._cosignature = b""  # of a round whose answer failed
        self._settle_all(left=False, reason="the round ended before anything left", run=run.hex())
        phase = terms.phase_of(round_number)
        self.ledger.reserve(run.hex(), round_number, phase=phase, count=terms.releases_in(phase))

    def need_reserved(self, run: bytes, round_number: int) -> None:
        """Raise a Refusal unless the round's release is reserved and has no outcome yet."""
        found = self.ledger.state.reservations.get((run.hex(), round_number))
        if found is None or found.outcome != "open":
            raise Refusal(f"round {round_number}: nothing is reserved for it")

    def see(self, shown: Shown | None, *, reserved_in: tuple[bytes, int] | None = None) -> None:
        """Look at the log as the server shows it, and cosign it if it continues what was seen before.

        Args:
            shown: from the server.
            reserved_in: run and round whose reservation must be in the log; None where it need not be yet.

        Raises:
            BadMessage: if the checkpoint is not the log's, or a proof does not hold.
            Refusal: if nothing is shown, the reservation is missing, or the log contradicts what was seen.
        """
        if self.refused.exists():
            raise Refusal(
                f"the server's log contradicted itself; {self.refused.name} in the ledger's folder is the proof"
            )
        if shown is None:
            raise Refusal("the server's log: expected a checkpoint, got none")
        found = read_checkpoint(read_note(shown.checkpoint).text, origin=self.witness.log.name)
        # A log that did not grow needs no proof: either it is the one seen, or it contradicts it.
        proof = shown.consistency.get(self.witness.size, None if found.size > self.witness.size else ())
        if proof is None:
            raise BadMessage(f"the server's log: no proof that it continues the {self.witness.size} entries seen last")
        # Cosigning checks who signed it and that it continues; only then does it stand for anything.
        cosignature = self.witness.cosign(shown.checkpoint, proof)
        if not -1 <= shown.sequence < len(self.ledger.envelopes):
            raise BadMessage("the server's log: shows an entry that this party never wrote")
        if shown.sequence >= 0:
            need_included(
                leaf_hash(self.ledger.envelopes[shown.sequence]),
                shown.inclusion,
                index=shown.index,
                size=found.size,
                root=found.root,
            )
        if reserved_in is not None and shown.sequence < self._sequence_of(*reserved_in):
            raise Refusal("the server's log: the reservation is not in it, so nothing is released")
        self.proved = max(self.proved, shown.sequence + 1)
        self._cosignature = cosignature.content

    def commit(self, run: bytes, round_number: int, content: bytes, *, model_hash: bytes) -> None:
        """Write that ``content``, computed with this model, leaves; only when this returns may it."""
        self.ledger.append(
            Committed(run=run.hex(), round=round_number, model_hash=model_hash.hex(), content_hash=sha256_of(content))
        )

    def lose(self, run: bytes, round_number: int) -> None:
        """Write that a release came to nothing after its computation had begun: it stays spent."""
        self.ledger.append(Voided(run=run.hex(), round=round_number, left=True, reason="its computation failed"))

    def release(self, run: bytes, model_hash: bytes) -> None:
        """Write that the run's model, as the server names it, was handed on, and settle what is open; once a run.

        Raises:
            BadMessage: if another model of the run was handed on before.
        """
        known = {model for model, of in self.ledger.state.released.items() if of == run.hex()}
        if known - {model_hash.hex()}:
            raise BadMessage("another model of this run was handed on before")
        self._settle_all(left=False, reason="the run ended before anything left", run=run.hex())
        if model_hash.hex() not in self.ledger.state.released:
            self.ledger.append(Released(run=run.hex(), model_hash=model_hash.hex()))

    def told(self) -> Told:
        """Return what goes to the server beside an answer: entries that the log was not proved to hold, a cosignature.

        A server that lost an answer gets its entries with the next one.
        """
        cosignature, self._cosignature = self._cosignature, b""
        return Told(seen=self.witness.size, envelopes=self.ledger.envelopes[self.proved :], cosignature=cosignature)

    def close(self) -> None:
        """Give up the folder."""
        self.ledger.close()

    def _settle_all(self, *, left: bool, reason: str, run: str | None = None) -> None:
        for (of, number), reservation in list(self.ledger.state.reservations.items()):
            if reservation.outcome == "open" and run in (None, of):
                self.ledger.append(Voided(run=of, round=number, left=left, reason=reason))

    def _sequence_of(self, run: bytes, round_number: int) -> int:
        for entry in reversed(self.ledger.entries):
            statement = entry.statement
            if isinstance(statement, Reserved) and (statement.run, statement.round) == (run.hex(), round_number):
                return entry.head.sequence
        raise Refusal(f"round {round_number}: nothing is reserved for it")


def plan_of(terms: Terms) -> Plan:
    """Return the plan of ``terms`` as a ledger writes it; where noise is not shared, who colludes does not matter."""
    shares = terms.plan.shares
    colluders = 0 if shares is None else terms.minimum_survivors - shares
    return planned(terms.plan, assumed_colluders=colluders, minimum_survivors=terms.minimum_survivors)


def _need_same(ledger: Ledger, wanted: Opened, folder: Path) -> None:
    state, begun = ledger.state, ledger.state.opened
    if begun is None or (begun.unit, begun.adjacency, real(begun.delta)) != (
        wanted.unit, wanted.adjacency, real(wanted.delta),
    ):  # fmt: skip
        raise ConfigError(f"{folder}: the ledger was opened with another unit, adjacency or delta than the contract's")
    if state.destroyed:
        raise UsageError(f"{folder}: the ledger says that its data set is destroyed; nothing is released any more")
    if state.data_set != wanted.data_set:
        raise UsageError(
            f"{folder}: the ledger is of other rows; if they were replaced, say so, with --identity and --reason: "
            f"fedmarket ledger replace-data {folder} {wanted.data_set}"
        )


def _salt(folder: Path, *, new: bool) -> bytes:
    """Return the secret salt of the folder's commitments, made where the books are ``new``."""
    path = folder / SALT
    try:
        salt = path.read_bytes()
    except FileNotFoundError:
        if not new:
            raise DataError(f"{path}: missing; without it no ledger fits the rows, so put back a copy") from None
        salt = secrets.token_bytes(_SALT_SIZE)
        with appearing(path, mode=0o600) as temporary:
            temporary.write_bytes(salt)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(salt) != _SALT_SIZE:
        raise DataError(f"{path}: expected {_SALT_SIZE} bytes, got {len(salt)}; without it no ledger fits the rows")
    return salt
