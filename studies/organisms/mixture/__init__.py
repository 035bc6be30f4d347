"""A small Llama trained on eight kinds of sequence in one language; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.mixture.corpus import Corpus


def _corpus() -> Corpus:
    from studies.organisms.mixture.corpus import Corpus  # brings in torch, which importing an organism must not

    return Corpus()


mixture = Organism(
    name="mixture",
    folder=Path(__file__).parent / "model",
    larger=Path(__file__).parent / "larger",
    build=_corpus,
    summary="a two-layer Llama on Markov text, induction, facts, retrieval, modular addition and planted canaries",
)
