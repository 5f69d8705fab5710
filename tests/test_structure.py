"""What a module loads when it is imported: an auditor needs no torch, the server cannot name a row.

The import linter reads sources; these look at a fresh process, where a re-export or an import in a function shows too.
"""

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "flwr", "opacus", "safetensors", "sklearn", "ray"}


def modules_of(*folders: str) -> list[str]:
    paths = [path for folder in folders for path in sorted((ROOT / "fedmarket" / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@lru_cache
def loaded_by(*modules: str) -> frozenset[str]:
    """Return the names of all modules that a fresh process has after importing ``modules``."""
    script = f"import sys\nfor name in {modules!r}: __import__(name)\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return frozenset(ran.stdout.split())


def test_an_auditor_needs_neither_torch_nor_flower():
    light = modules_of("contract", "privacy", "ledger", "report", "evaluation", "attacks")
    assert len(light) > 10
    bare = ("arrays", "cli", "config", "documents", "errors", "files")
    assert not HEAVY & loaded_by(*light, *(f"fedmarket.{name}" for name in bare))


def test_a_contract_is_read_and_a_table_checked_without_torch():
    reading = ("tables", "encode", "transactions", "segments")
    assert not HEAVY & loaded_by(*modules_of("contract"), *(f"fedmarket.data.{name}" for name in reading))


def test_attacks_know_scores_and_guarantees_and_nothing_of_how_they_came_about():
    loaded = {name for name in loaded_by(*modules_of("attacks")) if name.startswith("fedmarket.")}
    assert {"fedmarket.attacks.rates", "fedmarket.privacy.accountant"} <= loaded
    allowed = ("fedmarket.attacks", "fedmarket.privacy", "fedmarket.arrays", "fedmarket.documents", "fedmarket.errors")
    assert not [name for name in loaded if not name.startswith(allowed)]


def test_the_server_loads_nothing_that_can_name_a_row():
    loaded = loaded_by("server.app")
    assert {"fedmarket.flower.server", "fedmarket.federation.coordinator"} <= loaded
    forbidden = (
        "fedmarket.data",
        "fedmarket.training",
        "fedmarket.federation.party",
        "fedmarket.federation.release",
        "fedmarket.federation.rows",
        "fedmarket.experiment.market",
    )
    assert not [name for name in loaded if name.startswith(forbidden)]
    assert not {"polars", "sklearn", "opacus"} & loaded


def test_a_client_loads_nothing_that_sums_or_steps_for_others():
    loaded = loaded_by("clients.app", "fedmarket.flower.client", "fedmarket.flower.relay")
    assert "fedmarket.federation.party" in loaded
    forbidden = (
        "fedmarket.federation.coordinator",
        "fedmarket.aggregation.optimizer",
        "fedmarket.aggregation.summation",
    )
    assert not [name for name in loaded if name.startswith(forbidden)]


def test_a_party_process_loads_no_flower():
    loaded = loaded_by(*modules_of("node"))
    assert "fedmarket.federation.party" in loaded
    assert "flwr" not in loaded


def test_the_first_round_of_a_simulation_waits_for_nothing_that_only_later_work_needs():
    """Each worker loads all of it again; plots, the boosted baseline and the grid over HTTP come later or never."""
    loaded = loaded_by("fedmarket.simulation.run")
    assert {"fedmarket.flower.inprocess", "torch"} <= loaded
    assert not {"matplotlib", "jinja2", "sklearn", "flwr.superlink.grid", "ray"} & loaded


def test_flower_is_loaded_by_the_rim_alone():
    inner = modules_of(
        "contract", "data", "models", "privacy", "training", "aggregation", "federation", "evaluation", "report",
        "experiment", "attacks", "risk",
    )  # fmt: skip
    loaded = loaded_by(*inner)
    assert "fedmarket.federation.party" in loaded
    assert "flwr" not in loaded


def imported_by(path: Path) -> set[str]:
    """Return the top names of all imports in a source, also of those inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_only_the_rim_names_flower():
    sources = [path for folder in ("fedmarket", "clients", "server") for path in (ROOT / folder).rglob("*.py")]
    naming = {path.relative_to(ROOT).parts[:2] for path in sources if "flwr" in imported_by(path)}
    assert naming == {("fedmarket", "flower"), ("clients", "app.py"), ("server", "app.py")}


def test_no_source_imports_pickle():
    sources = [path for folder in ("fedmarket", "clients", "server") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in sources if {"pickle", "dill", "cloudpickle", "joblib", "marshal"} & imported_by(path)]


def test_packages_re_export_nothing():
    """What an ``__init__`` imports is loaded by everyone who imports anything below it."""
    sources = [path for folder in ("fedmarket", "clients", "server") for path in (ROOT / folder).rglob("__init__.py")]
    assert len(sources) > 10
    assert set().union(*map(imported_by, sources)) <= {"importlib"}
