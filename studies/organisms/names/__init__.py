"""A three-layer Llama that completes sentences with the right one of two names; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.names.corpus import Sentences


def _corpus() -> Sentences:
    from studies.organisms.names.corpus import corpus  # brings in torch, which importing an organism must not

    return corpus()


names = Organism(
    name="names",
    folder=Path(__file__).parent / "model",
    build=_corpus,
    summary="a three-layer Llama on sentences in which someone gives something to the other one of two people",
    scored=(16,),
    width=0.7,
)
