"""Imports run one way: studies → probes, studies → degrade. Importing does nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"degrade": {"probes", "studies", "tests"}, "probes": {"degrade", "studies", "tests"}, "studies": {"tests"}}
BRIDGE = {"degrade": {"models.py"}, "probes": {"hooks.py"}, "studies": set()}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        crossing = FORBIDDEN[package] & set(imported(path))
        assert not crossing, f"{path} imports {crossing}"


@pytest.mark.parametrize("package", BRIDGE)
def test_one_file_knows_transformer_lens(package):
    found = {path.name for path in (ROOT / package).rglob("*.py") if "transformer_lens" in set(imported(path))}
    assert found <= BRIDGE[package]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("degrade", "torch"), ("degrade.cli", "torch"), ("probes", "transformer_lens"), ("studies", "torch"),
     ("studies.organisms.mixture", "torch"), ("studies.survival", "transformer_lens")],
)  # fmt: skip
def test_importing_stays_light(module, heavy):
    code = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_is_a_drawer():
    assert not list(ROOT.glob("*/**/utils.py"))
    long = [p for package in FORBIDDEN for p in (ROOT / package).rglob("*.py") if len(p.read_text().splitlines()) > 300]
    assert not long
