"""The database server that all tests share, under a short name."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def server(postgresql_server: Any) -> Any:
    return postgresql_server
