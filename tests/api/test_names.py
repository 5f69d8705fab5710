"""What ``import fedmarket`` offers: little, typed, and loaded when it is asked for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fedmarket

PACKAGE = Path(fedmarket.__file__).parent


def test_importing_loads_nothing():
    script = "import fedmarket, json, sys; print(json.dumps([n for n in sys.modules if n.startswith('fedmarket')]))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == ["fedmarket"]


def test_types_and_names_agree():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(typed) == sorted(fedmarket.__all__)
    assert (PACKAGE / "py.typed").is_file()
    for name, module in typed.items():
        assert getattr(fedmarket, name).__module__ == module
    assert {*fedmarket.__all__, "__version__"} <= set(dir(fedmarket))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'fedmarket' has no attribute 'simulat'"):
        _ = fedmarket.simulat
