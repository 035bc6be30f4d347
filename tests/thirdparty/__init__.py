"""A package as somebody else would write it, built into a wheel and installed with pip; see `install`."""

import subprocess
import sys
import zipfile
from pathlib import Path

MODULES = {
    "otherlab_probes": '''"""Probes of another laboratory."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd


@dataclass(frozen=True)
class Size:
    """How large are the weights?"""

    name: ClassVar[str] = "size"
    needs: ClassVar[str] = "any model"
    power: int = 2
    parts: tuple[str, ...] = ()

    @classmethod
    def build(cls, subject: Any, *, power: int = 2, parts: list[str] | None = None) -> "Size":
        """The mean power of the weights."""
        return cls(power, tuple(parts or ()))

    def __call__(self, model: Any) -> pd.DataFrame:
        """One row."""
        value = sum(float(p.detach().abs().pow(self.power).mean()) for p in model.parameters())
        return pd.DataFrame({"measure": ["size"], "value": [value]})


def depth(model: Any) -> pd.DataFrame:
    """How many layers are there?"""
    return pd.DataFrame({"measure": ["depth"], "value": [float(model.cfg.n_layers)]})
''',
    "otherlab_broken": "raise RuntimeError('the laboratory has closed')\n",
    "otherlab_needy": "import a_package_that_nobody_has\n",
}
GOOD = {"size": "otherlab_probes:Size", "depth": "otherlab_probes:depth"}


def wheel(folder: Path, points: dict[str, str], name: str = "otherlab") -> Path:
    """A wheel of `MODULES` that registers probes: name -> "module:object"."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    entries = "\n".join(f"{key} = {value}" for key, value in points.items())
    files = {f"{module}.py": text for module, text in MODULES.items()}
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[degrade.probes]\n{entries}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def install(folder: Path, points: dict[str, str]) -> Path:
    """Install the package into a folder with pip, offline; the folder goes on `sys.path`."""
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*command, str(wheel(folder, points))], check=True, capture_output=True)
    return target
