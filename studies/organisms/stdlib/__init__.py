"""A three-layer Llama trained on the source of the Python standard library; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.stdlib.corpus import Source


def _corpus() -> Source:
    from studies.organisms.stdlib.corpus import Source  # brings in torch, which importing an organism must not

    return Source()


stdlib = Organism(
    name="stdlib",
    folder=Path(__file__).parent / "model",
    build=_corpus,
    summary="a three-layer Llama on real text, the source of the Python standard library",
    width=0.5,
    asked={"code": {}},
    size={"rises": (0.9, 1.3, 2.0), "evaluation": 128, "heldout": 128, "batch_size": 8, "budget": 700},
)
