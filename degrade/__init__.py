"""Natural degradation: sample weights near a trained network whose loss has risen by a chosen amount.

The public names are imported when they are first used, so that `import degrade` and the command line stay quick.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Draw": "degrade.result",
    "Ladder": "degrade.result",
    "bridge": "degrade.models",
    "ladder": "degrade.build",
    "label_loss": "degrade.losses",
    "LLC": "degrade.coefficient",
    "llc": "degrade.learning_coefficient",
    "llcs": "degrade.learning_coefficient",
    "load": "degrade.store",
    "next_token_loss": "degrade.losses",
}

_MODULES = ("influence", "scales", "thermodynamics")

__all__ = ["__version__", *_HOMES, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"degrade.{name}")
    if name not in _HOMES:
        raise AttributeError(f"degrade has no {name!r}; its public names are {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
