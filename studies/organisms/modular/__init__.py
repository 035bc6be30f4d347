"""A one-layer Llama that has grokked addition modulo 113; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.modular.corpus import Addition


def _corpus() -> Addition:
    from studies.organisms.modular.corpus import Addition  # brings in torch, which importing an organism must not

    return Addition()


modular = Organism(
    name="modular",
    folder=Path(__file__).parent / "model",
    build=_corpus,
    summary="a one-layer Llama that has grokked addition modulo 113",
    scored=(3,),
)
