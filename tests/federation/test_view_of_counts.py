"""Counts, losses and metrics of a party are nowhere in what the server sees, and change no size of it."""

import struct
from dataclasses import fields

import numpy as np

from fedmarket.aggregation.steps import SECURE

NAMES = ("p0", "p1", "p2", "p3")


def small_run(world, *, rows: int, positives: int, held_out_rows: int = 313, seed: int = 0):
    """Return the view of a run in which p1 declares 1300 rows and holds ``rows`` and ``held_out_rows``."""
    terms = world.terms()
    coordinator = world.coordinator(terms, NAMES)
    members = []
    for place, name in enumerate(NAMES):
        own = world.rows(rows if name == "p1" else 60, seed=place + seed)
        own.targets[:] = 0.0
        own.targets[: positives if name == "p1" else 20] = 1.0
        held_out = world.rows(held_out_rows if name == "p1" else 30, seed=place + seed + 1000)
        changed = {"rows": own, "held_out": held_out, "declared_rows": 1300 if name == "p1" else 60}
        members.append(world.fresh(world.party(name, terms, roster=NAMES, **changed)))
    world.join(coordinator, members)
    return world.seen_rounds(coordinator, members, rounds=terms.rounds), members


def shape(view) -> dict:
    """Return everything about a view but the bytes: who said what when, its fields, and their sizes."""
    said = {
        at: [(f.name, type(getattr(update, f.name)).__name__) for f in fields(update)] + [len(update.content)]
        for at, update in view.updates.items()
    }
    asked = {at: (request.phase, len(request.packet), request.model is None) for at, request in view.requests.items()}
    return {"said": said, "asked": asked}


def test_the_shape_of_the_view_depends_on_no_count_and_no_label(world):
    one, _ = small_run(world, rows=1237, positives=411)
    for rows, positives, held_out_rows, seed in ((1237, 0, 1, 0), (1299, 1299, 0, 5), (1, 1, 900, 0), (1300, 3, 3, 9)):
        other, _ = small_run(world, rows=rows, positives=positives, held_out_rows=held_out_rows, seed=seed)
        assert shape(other) == shape(one)


def encodings(number: float) -> set[bytes]:
    """Return the ways in which a number may stand in bytes: four or more of them."""
    kinds = ["f", "d"] + (["i", "q"] if number == int(number) else [])
    packed = {struct.pack(end + kind, int(number) if kind in "iq" else number) for end in "<>" for kind in kinds}
    return {code for code in packed if any(code)}


def found_alike(views: list[dict[tuple, bytes]], number: float) -> list:
    """Return where an encoding of ``number`` stands at one place in all views: by chance, none."""
    hits = []
    for at in views[0]:
        for code in encodings(number):
            places = [_places(view[at], code) for view in views]
            hits += [(at, place) for place in set.intersection(*places)]
    return hits


def _places(content: bytes, code: bytes) -> set[int]:
    places, start = set(), content.find(code)
    while start != -1:
        places.add(start)
        start = content.find(code, start + 1)
    return places


def private_numbers(world, members) -> dict[str, float]:
    """Return what a curious server would like to know of p1."""
    party = members[1].party
    features, labels, held_out = party.rows.features, party.rows.targets[:, 0], party.held_out
    scores = 1 / (1 + np.exp(-features @ np.array([1.0, 0.0, 1.0, 0.0])))
    loss = float(-np.mean(np.where(labels == 1, np.log(scores), np.log1p(-scores))))
    return {
        "rows": float(len(labels)),
        "held-out rows": float(len(held_out.targets)),
        "held-out rate": float(held_out.targets.mean()),
        "positives": float(labels.sum()),
        "negatives": float(len(labels) - labels.sum()),
        "rate": float(labels.mean()),
        "loss": loss,
        "total loss": loss * len(labels),
        "accuracy": float(np.mean((scores > 0.5) == labels)),
        "sum of a feature": float(features[:, 0].sum(dtype=np.float64)),
    }


def test_no_count_loss_or_metric_of_a_party_is_anywhere_in_the_view(world):
    runs = [small_run(world, rows=1237, positives=411) for _ in range(3)]
    views = [view.everything() for view, _ in runs]
    for what, number in private_numbers(world, runs[0][1]).items():
        assert found_alike(views, number) == [], what
    told = str([(update.party, update.round_number, update.step) for update in runs[0][0].updates.values()])
    assert "1237" not in told
    assert "411" not in told


def test_a_count_in_an_answer_would_be_found(world):
    views = [small_run(world, rows=1237, positives=411)[0].everything() for _ in range(3)]
    for code in (struct.pack("<i", 1237), struct.pack(">q", 1237), struct.pack(">d", 1237.0)):
        leaking = [
            {at: c[:40] + code + c[40:] if at[-1] == "answer" else c for at, c in view.items()} for view in views
        ]
        assert len(found_alike(leaking, 1237)) >= len(SECURE) * 4 * 8
