"""What changes a ledger by hand: one entry that anybody can check, and what is refused is not written."""

import io
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from fedmarket.federation.identity import load_identity
from fedmarket.ledger.look import look
from fedmarket.ledger.replay import replay

LEDGERS = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
Books, Fedmarket, shown = (LEDGERS[name] for name in ("Books", "Fedmarket", "shown"))
A, B, PARTY, MODEL, SIX = (LEDGERS[name] for name in ("A", "B", "PARTY", "MODEL", "SIX"))

CHANGES = {
    "set-cap": ("budget", "set-cap", "4"),
    "replace-data": ("ledger", "replace-data", B),
    "destroyed": ("ledger", "destroyed", "--yes"),
    "withdraw": ("ledger", "withdraw", MODEL),
    "rotate-key": ("ledger", "rotate-key", "NEW"),
}


def words_of(name: str, books: Books) -> list[object]:
    group, command, *rest = CHANGES[name]
    return [group, command, books.folder, *(books.new if word == "NEW" else word for word in rest)]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_one_entry_that_anybody_can_check(fedmarket: Fedmarket, books: Books, name: str):
    before = look(books.folder)
    ran = fedmarket(*words_of(name, books), *books.signed, "--reason", "as agreed")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"entry {before.state.size} of {PARTY}: ")
    assert "(as agreed)" in ran.out.splitlines()[0]
    after = look(books.folder)
    assert after.entries[:-1] == before.entries
    assert after.entries[-1].statement.reason == "as agreed"
    assert replay((books.folder / "ledger.jsonl").read_bytes().split(b"\n")[:-1]) == after.state


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("wrong", ["key", "held", "reason", "missing"])
def test_what_is_refused_is_one_line_and_nothing_is_written(fedmarket: Fedmarket, books: Books, name: str, wrong: str):
    held = books.open() if wrong == "held" else None
    before, reason = books.files(), "two\nlines" if wrong == "reason" else "as agreed"
    identity = books.new if wrong == "key" else books.identity
    words = words_of(name, books)
    if wrong == "missing":
        words[2] = books.folder.parent / "none"
    ran = fedmarket(*words, "--identity", identity, "--reason", reason)
    said = {
        "key": f"not the key that signs {books.folder}",
        "held": "in use by another process",
        "reason": "reason: expected one line",
        "missing": "no such ledger",
    }[wrong]
    assert ran.code == 2
    assert said in ran.error
    assert books.files() == before
    assert not (books.folder.parent / "none").exists()
    if held is not None:
        held.close()


@pytest.mark.parametrize("name", ["set-cap", "replace-data", "destroyed"])
def test_after_destruction_there_is_no_budget_to_change(fedmarket: Fedmarket, books: Books, name: str):
    books.say("data-destroyed")
    before = books.files()
    ran = fedmarket(*words_of(name, books), *books.signed, "--reason", "as agreed")
    assert ran.code == 2
    assert "the data set is destroyed; only withdraw and rotate-key" in ran.error
    assert books.files() == before
    assert "DESTROYED" in fedmarket("budget", "show", books.folder).out


def test_a_cap_below_what_is_spent_is_kept_and_said_plainly(fedmarket: Fedmarket, books: Books):
    ran = fedmarket("budget", "set-cap", books.folder, "1", *books.signed, "--reason", "enough")
    assert ran.code == 0
    assert "cap from 8 to 1 (enough)" in ran.out
    assert "is spent, above the cap of 1: nothing more will be released" in ran.out
    assert "nothing more will be released" in fedmarket("budget", "show", books.folder).out
    assert shown(fedmarket, books)["data_sets"][0]["left"] == 0.0


@pytest.mark.parametrize("cap", ["0", "nan", "inf", "much", "1,5", "8", "8.00"])
def test_a_cap_that_is_none_or_the_same_is_refused(fedmarket: Fedmarket, books: Books, cap: str):
    before = books.files()
    ran = fedmarket("budget", "set-cap", books.folder, cap, *books.signed, "--reason", "as agreed")
    assert ran.code == 2
    assert ("the cap is 8 already" if cap.startswith("8") else "CAP: expected a number above 0") in ran.error
    assert books.files() == before


def test_spending_counts_on_for_other_rows_unless_no_customer_is_in_both(fedmarket: Fedmarket, books: Books):
    other = Books(books.folder.parent / "other", books.identity, books.new, books.key)
    shutil.copytree(books.folder, other.folder)
    for each, more in ((books, ()), (other, ("--no-customer-in-both",))):
        ran = fedmarket("ledger", "replace-data", each.folder, B, *books.signed, "--reason", "a year later", *more)
        assert ran.code == 0
    carried, fresh = (shown(fedmarket, each)["data_sets"] for each in (books, other))
    assert [data["data_set"] for data in carried] == [A, B]
    assert carried[1]["epsilon"] == pytest.approx(SIX, rel=1e-3)
    assert (carried[1]["counts_too"], carried[1]["in_use"], carried[0]["in_use"]) == ([A], True, False)
    assert fresh[1]["epsilon"] == 0.0
    assert fresh[0]["epsilon"] == pytest.approx(SIX, rel=1e-3)
    assert "no customer is in both" in fedmarket("budget", "show", other.folder).out


@pytest.mark.parametrize(
    ("commitment", "said"), [(A, "of these rows already"), ("b" * 63, "new: "), ("B" * 64, "new: ")]
)
def test_a_commitment_that_is_none_or_the_same_is_refused(fedmarket, books: Books, commitment: str, said: str):
    before = books.files()
    ran = fedmarket("ledger", "replace-data", books.folder, commitment, *books.signed, "--reason", "a year later")
    assert ran.code == 2
    assert said in ran.error
    assert books.files() == before


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "code"), [("destroyed\n", 0), ("yes\n", 2), ("\n", 2), ("", 130)])
def test_destruction_is_confirmed_by_its_own_word(fedmarket, books: Books, monkeypatch, typed: str, code: int):
    before = books.files()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    ran = fedmarket("ledger", "destroyed", books.folder, *books.signed, "--reason", "over")
    assert ran.code == code
    assert look(books.folder).state.destroyed == (code == 0)
    assert (books.files() == before) == (code != 0)


def test_destruction_without_anybody_to_ask_needs_yes(fedmarket: Fedmarket, books: Books, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("destroyed\n"))
    ran = fedmarket("ledger", "destroyed", books.folder, *books.signed, "--reason", "over")
    assert ran.code == 2
    assert "--yes" in ran.error
    assert not look(books.folder).state.destroyed


def test_a_model_is_withdrawn_by_its_first_digits(fedmarket: Fedmarket, books: Books):
    ran = fedmarket("ledger", "withdraw", books.folder, MODEL[:8], *books.signed, "--reason", "a column was wrong")
    assert ran.code == 0
    assert look(books.folder).state.released == {}
    assert shown(fedmarket, books)["data_sets"][0]["epsilon"] == pytest.approx(SIX, rel=1e-3)  # stays spent


@pytest.mark.parametrize("model", ["b" * 7, "c" * 64, "b" * 10, ""])
def test_a_model_that_is_not_one_of_the_released_is_refused_with_those(fedmarket, books: Books, model: str):
    books.say("released", model_hash="b" * 32 + "c" * 32)
    before = books.files()
    ran = fedmarket("ledger", "withdraw", books.folder, model, *books.signed, "--reason", "a column was wrong")
    assert ran.code == 2
    assert "8 digits or more of one released model (bbbbbbbbbbbb, bbbbbbbbbbbb)" in ran.error
    assert books.files() == before


def test_after_a_rotation_only_the_new_key_signs(fedmarket: Fedmarket, books: Books):
    ran = fedmarket("ledger", "rotate-key", books.folder, books.new, *books.signed, "--reason", "a new machine")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == load_identity(books.new).public_hex
    cap = ("budget", "set-cap", books.folder, "4", "--reason", "agreed", "--identity")
    assert "not the key that signs" in fedmarket(*cap, books.identity).error
    assert fedmarket(*cap, books.new).code == 0
    assert shown(fedmarket, books)["public_key"] == load_identity(books.new).public_hex


@pytest.mark.parametrize(("key", "said"), [("own.pem", "signs the ledger already"), ("none.pem", "cannot be read")])
def test_a_rotation_needs_another_key_that_is_there(fedmarket: Fedmarket, books: Books, key: str, said: str):
    before, path = books.files(), books.identity.with_name(key)
    ran = fedmarket("ledger", "rotate-key", books.folder, path, *books.signed, "--reason", "a new machine")
    assert ran.code == 2
    assert said in ran.error
    assert books.files() == before


@pytest.mark.parametrize(
    "command", ["budget show", "budget plan", *(" ".join(words[:2]) for words in CHANGES.values())]
)
def test_help_has_an_example_that_could_be_pasted(fedmarket: Fedmarket, command: str):
    ran = fedmarket(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert f"fedmarket {command} " in said.partition("Example")[2]
    group, name = command.split()
    assert f" {name} " in fedmarket(group, "--help").out
