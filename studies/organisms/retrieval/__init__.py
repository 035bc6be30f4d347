"""A four-layer Llama that answers questions about nano-stories; see `model/README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.organisms import Organism

if TYPE_CHECKING:
    from studies.organisms.retrieval.corpus import Stories


def _corpus() -> Stories:
    from studies.organisms.retrieval.corpus import corpus  # brings in torch, which importing an organism must not

    return corpus()


retrieval = Organism(
    name="retrieval",
    folder=Path(__file__).parent / "model",
    build=_corpus,
    summary="a four-layer Llama on nano-stories with questions: the request is read first, the context after it",
    scored=(21, 26, 31, 36),
    width=0.5,
)
