"""Whose folder a party's books are in, and of which rows: one process, one key, one data set."""

import multiprocessing
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage, ConfigError, UsageError
from fedmarket.ledger.entries import DataDestroyed, DataReplaced

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
TRAINED, HELD_OUT, OTHER = (ROOM[name] for name in ("TRAINED", "HELD_OUT", "OTHER"))


def test_no_second_process_opens_a_folder_nor_the_same_twice(rooms):
    room = rooms()
    terms = room.terms()
    books = room.books("p0", terms)

    def elsewhere(told) -> None:
        room.opened.clear()
        try:
            room.books("p0", terms)
        except UsageError as error:
            told.send(str(error))

    process = multiprocessing.get_context("fork")
    told, teller = process.Pipe(duplex=False)
    child = process.Process(target=elsewhere, args=(teller,))
    child.start()
    child.join()
    assert "in use by another process" in (told.recv() if told.poll() else "")
    room.opened.clear()
    with pytest.raises(UsageError, match="in use by another process"):
        room.books("p0", terms)
    books.close()
    room.books("p0", terms)


@pytest.mark.parametrize("rows", [(OTHER, HELD_OUT), (TRAINED, OTHER), (HELD_OUT, TRAINED)])
def test_other_rows_or_another_split_are_refused_with_the_command_to_type(rooms, rows: tuple[str, str]):
    room = rooms()
    coordinator, members = room.market()
    room.world.round(coordinator, members)
    spent = members[0].party.books.ledger.state.spent().epsilon
    with pytest.raises(UsageError, match="of other rows") as caught:
        room.books("p0", coordinator.terms, rows=rows)
    command, folder, new = str(caught.value).rpartition(": ")[2].rsplit(" ", 2)
    assert (command, folder) == ("fedmarket ledger replace-data", str(room.folder / "00"))
    books = room.books("p0", coordinator.terms)
    old = books.ledger.state.data_set
    books.ledger.append(DataReplaced(old=old, new=new, overlap=True, reason="as it says"))
    books = room.books("p0", coordinator.terms, rows=rows)
    assert books.ledger.state.spent().epsilon >= spent > 0
    with pytest.raises(BadMessage, match="no longer in use"):
        books.enter(coordinator.run, 1, terms=coordinator.terms)


@pytest.mark.parametrize("changed", [{"unit": "column:id"}, {"adjacency": "replace-one"}, {"delta": 2e-5}])
def test_another_unit_adjacency_or_delta_is_refused(rooms, changed: dict):
    room = rooms()
    terms = room.terms()
    room.books("p0", terms)
    with pytest.raises(ConfigError, match="another unit, adjacency or delta"):
        room.books("p0", replace(terms, plan=replace(terms.plan, **changed)))
    room.books("p0", terms)


def test_a_data_set_that_is_destroyed_releases_nothing_and_opens_no_more(rooms):
    room = rooms()
    coordinator, members = room.market()
    books = members[0].party.books
    books.ledger.append(DataDestroyed(data_set=books.ledger.state.data_set, reason="as agreed"))
    with pytest.raises(BadMessage, match=r"destroyed|no longer in use"):
        members[0].answer(coordinator.requests()["p0"].requests[0])
    with pytest.raises(UsageError, match="destroyed"):
        room.books("p0", coordinator.terms)
