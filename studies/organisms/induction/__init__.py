"""A two-layer Llama that has learned to continue repeated segments; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.induction.corpus import Segments


def _corpus() -> Segments:
    from studies.organisms.induction.corpus import corpus  # brings in torch, which importing an organism must not

    return corpus()


induction = Organism(
    name="induction",
    folder=Path(__file__).parent / "model",
    build=_corpus,
    summary="a two-layer Llama on repeated segments: a previous-token head and induction heads",
    width=0.5,
)
