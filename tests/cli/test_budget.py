"""``fedmarket budget``: what is shown and planned is what is signed, and looking writes nothing."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmarket.cli import budget
from fedmarket.federation.identity import new_identity
from fedmarket.ledger.store import Ledger

LEDGERS = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
MADE, Books, Fedmarket, shown = (LEDGERS[name] for name in ("MADE", "Books", "Fedmarket", "shown"))
RUN, OTHER, PARTY, MODEL, SIX = (LEDGERS[name] for name in ("RUN", "OTHER", "PARTY", "MODEL", "SIX"))


# Showing.


def test_what_counts_is_shown_against_the_cap_by_both_accountants(fedmarket: Fedmarket, books: Books):
    document = shown(fedmarket, books)
    (data,) = document["data_sets"]
    assert data["accountants"] == {"pld": pytest.approx(SIX, rel=1e-3), "exact": pytest.approx(SIX, rel=1e-9)}
    assert data["epsilon"] == max(data["accountants"].values())
    assert data["left"] == 8 - data["epsilon"]
    assert (document["cap"], document["delta"], document["unit"]) == (8.0, 1e-5, "row")
    said = fedmarket("budget", "show", books.folder).out
    assert said.startswith(f"{PARTY}: epsilon 2.5018 of 8 is spent, 5.4982 is left\n")
    assert f"exact {data['accountants']['exact']:.4f}, pld {data['accountants']['pld']:.4f}" in said
    assert "delta        1e-05" in said
    assert "each row, neighbours by add or remove one" in said


def test_an_epsilon_is_never_rounded_down_nor_what_is_left_up(fedmarket: Fedmarket, books: Books):
    exact = shown(fedmarket, books)["data_sets"][0]
    words = fedmarket("budget", "show", books.folder).out.splitlines()[0].split()
    epsilon, left = float(words[words.index("epsilon") + 1]), float(words[-3])
    assert exact["epsilon"] <= epsilon < exact["epsilon"] + 1e-4
    assert exact["left"] - 1e-4 < left <= exact["left"]


def test_releases_are_counted_by_run_phase_and_outcome(fedmarket: Fedmarket, books: Books):
    (run,) = shown(fedmarket, books)["runs"]
    updates = {"phase": "update", "planned": 10, "spent": 6, "open": 2, "lost": 2, "given_back": 3}
    none = {"planned": 1, "spent": 0, "open": 0, "lost": 0, "given_back": 0}
    assert run["phases"] == [{"phase": "centre", **none}, updates, {"phase": "evaluate", **none}]
    rows = [line.split() for line in fedmarket("budget", "show", books.folder).out.splitlines()]
    assert ["update", "6", "10", "2", "3", "2"] in rows
    assert any(row[:1] == [RUN[:12]] for row in rows)


def test_changes_are_shown_with_their_reasons_and_models(fedmarket: Fedmarket, books: Books):
    books.say("cap-changed", reason="agreed [bold]by all[/]")
    books.say("withdrawn", model_hash=MODEL)
    document = shown(fedmarket, books)
    assert [change["kind"] for change in document["changes"]] == ["released", "cap-changed", "withdrawn"]
    assert document["released"] == []
    said = fedmarket("budget", "show", books.folder).out
    assert "cap from 8 to 9" in said
    assert "agreed [bold]by all[/]" in said
    assert f"model {MODEL[:12]} withdrawn" in said
    assert "of 9 is spent" in said


def test_a_ledger_is_shown_while_a_node_holds_it(fedmarket: Fedmarket, books: Books):
    with books.open() as ledger:
        ledger.reserve(RUN, 4, phase="centre", count=1)
        document = shown(fedmarket, books)
        assert document["runs"][0]["phases"][0]["open"] == 1
        assert document["entries"] == ledger.state.size


def test_looking_writes_nothing_and_makes_no_lock(fedmarket: Fedmarket, books: Books):
    (books.folder / "ledger.lock").unlink()
    before = books.files()
    books.folder.chmod(0o500)
    try:
        shown(fedmarket, books)
        assert fedmarket("budget", "show", books.folder).code == 0
    finally:
        books.folder.chmod(0o700)
    assert books.files() == before


@pytest.mark.parametrize("tail", [b'{"payload":"eyJ', "whole", b'{"pay\0\0\0\n'])
def test_a_last_line_that_is_not_whole_is_left_where_it_is_and_told(fedmarket: Fedmarket, books: Books, tail: Any):
    path = books.folder / "ledger.jsonl"
    content, entries = path.read_bytes(), shown(fedmarket, books)["entries"]
    cut = content[:-1] if tail == "whole" else content + tail
    path.write_bytes(cut)
    document = shown(fedmarket, books)
    assert document["incomplete_line"] is True
    assert document["entries"] == entries - (tail == "whole")
    assert "The last line is not whole and not counted" in fedmarket("budget", "show", books.folder).out
    assert path.read_bytes() == cut


def test_what_crashes_cut_is_named(fedmarket: Fedmarket, books: Books):
    with (books.folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"payload"')
    books.open().close()
    document = shown(fedmarket, books)
    assert (document["torn"], document["incomplete_line"]) == (["ledger.torn-1"], False)
    assert "ledger.torn-1; nothing was released" in fedmarket("budget", "show", books.folder).out


def test_a_ledger_that_was_touched_is_not_shown(fedmarket: Fedmarket, books: Books):
    path = books.folder / "ledger.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2], lines[3] = lines[3], lines[2]
    path.write_bytes(b"\n".join(lines))
    ran = fedmarket("budget", "show", books.folder)
    assert ran.code == 1
    assert "ledger.jsonl: line 3: sequence: expected 2, got 3; a ledger is never repaired" in ran.error


@pytest.mark.parametrize(("made", "said"), [(False, "no such ledger; name the folder"), (True, "nothing was entered")])
def test_a_folder_without_ledger_is_told_and_none_is_made(fedmarket: Fedmarket, tmp_path: Path, made: bool, said: str):
    folder = tmp_path / "empty"
    folder.mkdir()
    if made:
        (folder / "ledger.jsonl").touch()
    ran = fedmarket("budget", "show", folder)
    assert ran.code == 2
    assert said in ran.error
    assert len(list(folder.iterdir())) == made


def test_looking_loads_neither_torch_nor_flower(books: Books):
    script = (
        "import sys\nfrom fedmarket.cli.main import app\n"
        f"app(['budget', 'show', {str(books.folder)!r}], standalone_mode=False)\n"
        "print([name for name in ('torch', 'flwr', 'opacus', 'sklearn', 'polars') if name in sys.modules])"
    )
    environment = os.environ | {"COLUMNS": "80"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    assert ran.stdout.rstrip().endswith("[]")
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "…" not in ran.stdout


# Planning.


@pytest.fixture
def config(write_market: Callable[..., Path], tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def column_of(said: str) -> dict[str, str]:
    """Return the last word of each line by what is before it."""
    return {" ".join(words[:-1]): words[-1] for words in map(str.split, said.splitlines()) if words}


def test_a_plan_that_fits_says_what_will_be_spent_and_writes_nothing(fedmarket: Fedmarket, config: Path, books: Books):
    before = books.files()
    ran = fedmarket("budget", "plan", config, books.folder)
    assert (ran.code, ran.err) == (0, "")
    found = column_of(ran.out)
    spent, after = float(found["spent before"]), float(found["spent after the run"])
    assert spent == pytest.approx(SIX, abs=2e-4)
    assert spent + 0.1 < after < spent + 1.0  # composed, so less than the sum
    assert found["cap"] == "8"
    assert float(found["left"]) == pytest.approx(8 - after, abs=1e-9)
    assert books.files() == before


def test_what_was_planned_is_what_is_spent_when_the_run_is_over(fedmarket: Fedmarket, config: Path, books: Books):
    foreseen = float(column_of(fedmarket("budget", "plan", config, books.folder).out)["spent after the run"])
    _, plan = budget._planned(config, ())
    books.say("joined", run=OTHER, plan=plan.model_dump())
    for number, mechanism in enumerate(plan.mechanisms):
        books.release(number, mechanism.releases, run=OTHER, phase=mechanism.phase)
    found = shown(fedmarket, books)["data_sets"][0]["epsilon"]
    assert found <= foreseen < found + 1e-4


def test_a_plan_beyond_the_cap_ends_with_1_and_one_line(fedmarket: Fedmarket, config: Path, books: Books):
    books.say("cap-changed", new="2.7")
    before = books.files()
    ran = fedmarket("budget", "plan", config, books.folder)
    assert ran.code == 1
    assert ran.err.startswith("error: budget: ")
    assert ran.err.count("\n") == 1
    found = column_of(ran.out)
    assert (found["spent after the run"], found["cap"]) == ("refused", "2.7")
    assert books.files() == before


def test_a_run_that_protects_others_than_the_ledger_is_refused(fedmarket: Fedmarket, config: Path, tmp_path: Path):
    key = new_identity()
    with Ledger.open(tmp_path / "other", key, party=PARTY) as ledger:
        ledger.append(MADE["statement"]("opened", public_key=key.public_hex, unit="column:customer"))
    ran = fedmarket("budget", "plan", config, tmp_path / "other")
    assert ran.code == 1
    assert "unit and adjacency must be those that the ledger was opened with" in ran.err


def test_nothing_is_planned_on_rows_that_are_gone(fedmarket: Fedmarket, config: Path, books: Books):
    books.say("data-destroyed")
    ran = fedmarket("budget", "plan", config, books.folder)
    assert ran.code == 1
    assert "destroyed" in ran.err


def test_a_run_that_is_not_at_its_end_is_pointed_out(fedmarket: Fedmarket, config: Path, begun: Books):
    assert "1 run(s) joined before have no model yet" in fedmarket("budget", "plan", config, begun.folder).out
    begun.say("released")
    assert "joined before" not in fedmarket("budget", "plan", config, begun.folder).out


def test_a_run_alone_costs_what_its_configuration_says(fedmarket: Fedmarket, config: Path):
    ran = fedmarket("budget", "plan", config, "--set", "privacy.epsilon=0.5", "--releases")
    assert (ran.code, ran.err) == (0, "")
    assert "The run by itself: epsilon 0.5000 at delta 1e-05 (exact 0.5000, pld 0.5000)" in ran.out
    assert "spent before" not in ran.out
    assert any(line.split()[:2] == ["update", "3"] for line in ran.out.splitlines())


def test_noise_of_a_seed_is_called_what_it_is(fedmarket: Fedmarket, config: Path):
    assert "NOT PRIVATE" in fedmarket("budget", "plan", config).out
    assert "NOT PRIVATE" not in fedmarket("budget", "plan", config, "--set", "privacy.generator=operating-system").out


def test_each_observer_has_its_epsilon_and_an_unmasked_sum_is_seen(fedmarket: Fedmarket, config: Path):
    shared = ("budget", "plan", config, "--set", "privacy.noise=distributed")
    masked, bare = (column_of(fedmarket(*shared, *more).out) for more in ((), ("--set", "aggregation.secagg=ideal")))
    server, last = "the server, which sees the sum of each round", "whoever would see one party's updates unmasked"
    assert float(masked[server]) < 1.0 < float(masked[last])
    assert bare[server] == bare[last] == masked[last]
    assert masked["the server with the assumed number of colluding parties"] == "1.0000"
