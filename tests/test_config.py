"""How rows are dealt is read from the document, and a wrong key there is named."""

from typing import Any

import pytest

from fedmarket.config import AcquisitionPartition, DataSection, HashPartition
from fedmarket.documents import parse_document
from fedmarket.errors import ConfigError


def data(partition: dict[str, Any]) -> DataSection:
    source = {"kind": "public", "name": "cdnow", "partition": partition}
    document = {"contract": "contract.toml", "test_share": 0.2, "source": source}
    return parse_document(DataSection, document, source="config")


@pytest.mark.parametrize(
    ("partition", "kind"),
    [
        ({"kind": "hash", "column": "id", "parties": 4}, HashPartition),
        ({"kind": "acquisition", "period": "month"}, AcquisitionPartition),
        ({"kind": "acquisition", "period": "quarter"}, AcquisitionPartition),
    ],
)
def test_customers_may_be_dealt_by_hash_or_by_first_purchase(partition: dict[str, Any], kind: type):
    read = data(partition).source.partition
    assert isinstance(read, kind)
    assert read.model_dump() == partition


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ({"kind": "hash", "parties": 4}, "hash.column: missing"),
        ({"kind": "hash", "column": "id", "parties": 0}, "hash.parties: .* greater than or equal to 1, got 0"),
        (
            {"kind": "hash", "column": "id", "parties": 2, "seed": 1},
            "hash.seed: unknown key; .* column, kind, parties$",
        ),
        ({"kind": "acquisition", "period": "week"}, "acquisition.period: .* 'month' or 'quarter', got 'week'"),
        ({"kind": "acquisition", "period": "month", "parties": 3}, "acquisition.parties: unknown key"),
    ],
)
def test_a_wrong_key_of_a_partition_is_named(partition: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=rf"^config: source\.public\.partition\.{said}"):
        data(partition)
