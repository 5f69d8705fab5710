"""Whatever is done to a valid bundle, it is not accepted, gives no traceback, and is named where it was done.

300 seeded mutations are tried; for 2,000: ``FEDMARKET_MUTATIONS=2000 .venv/bin/pytest tests/ledger/test_tampering.py``.
"""

import os
import random
import re
import runpy
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage
from fedmarket.ledger.bundle import bundle_of
from fedmarket.ledger.verify import verify

TAMPERING = runpy.run_path(str(Path(__file__).with_name("mutations.py")))
HOW, files = TAMPERING["HOW"], TAMPERING["files"]
MUTATIONS = int(os.environ.get("FEDMARKET_MUTATIONS", "300"))


def report_on(made):
    try:
        verdict = verify(bundle_of(made))
    except BadMessage as error:
        return [str(error)]
    return [str(finding) for finding in verdict.findings]


def test_the_bundle_that_is_tampered_with_holds():
    assert report_on(files()) == []


def test_no_mutation_is_accepted_and_nearly_all_are_named():
    draw, lost = random.Random(7), []
    for number in range(MUTATIONS):
        mutation = HOW[number % len(HOW)](draw)
        assert mutation.files != files(), mutation.label
        report = report_on(mutation.files)
        assert report, f"accepted: {mutation.label}"
        assert all(line.isprintable() for line in report), mutation.label
        if not any(re.search(pattern, line) for pattern in mutation.where for line in report):
            lost.append((mutation.label, mutation.where, report[:3]))
    print(f"{MUTATIONS} mutations, {len(lost)} not named")
    assert len(lost) <= 0.05 * MUTATIONS, lost


@pytest.mark.parametrize("how", sorted({how.__name__ for how in HOW}))
def test_each_way_of_tampering_is_tried_and_refused(how):
    mutation = TAMPERING[how](random.Random(how))
    assert report_on(mutation.files)
