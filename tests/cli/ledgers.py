"""A party's ledger in a folder of its own; run by path (``runpy``) from the tests that need it."""

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmarket.federation.identity import Identity, new_identity, save_identity
from fedmarket.ledger.store import Ledger
from fedmarket.privacy.accountant import gaussian_epsilon

MADE = runpy.run_path(str(Path(__file__).parents[1] / "ledger" / "conftest.py"))
A, B, RUN, OTHER = MADE["A"], MADE["B"], MADE["RUN"], MADE["OTHER"]
PARTY = "Alpha Bank"
MODEL = "b" * 64
SIX = gaussian_epsilon(6**0.5 / 4, 1e-5)

Fedmarket = Callable[..., Any]


@dataclass(frozen=True)
class Books:
    """A party's folder, its identity, and another identity that is not in use yet."""

    folder: Path
    identity: Path
    new: Path
    key: Identity

    def open(self, *, key: Identity | None = None) -> Ledger:
        return Ledger.open(self.folder, key or self.key, party=PARTY)

    def say(self, *kinds: str, **changed: Any) -> None:
        with self.open() as ledger:
            for kind in kinds:
                ledger.append(MADE["statement"](kind, **changed))

    def release(self, number: int, count: int, *, run: str = RUN, phase: str = "update", **outcome: Any) -> None:
        """Reserve so many releases, and settle them if an outcome is given."""
        with self.open() as ledger:
            ledger.reserve(run, number, phase=phase, count=count)
            if outcome:
                ledger.append(MADE["statement"](outcome.pop("kind"), run=run, round=number, **outcome))

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    @property
    def signed(self) -> tuple[object, object]:
        return "--identity", self.identity


def begun_in(folder: Path) -> Books:
    """Return a ledger with a cap of 8 that has joined a run of 1, 10 and 1 releases, noise 4."""
    key = new_identity()
    made = Books(folder=folder / "books", identity=folder / "own.pem", new=folder / "new.pem", key=key)
    save_identity(key, made.identity)
    save_identity(new_identity(), made.new)
    made.say("opened", public_key=key.public_hex)
    made.say("joined")
    return made


def shown(fedmarket: Fedmarket, books: Books) -> dict[str, Any]:
    ran = fedmarket("budget", "show", books.folder, "--json")
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)
