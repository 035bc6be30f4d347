"""Train the names organism: `python -m studies.organisms.names.train --out DIR`."""

from __future__ import annotations

from typing import Any

import torch

from studies.organisms.mixture.references import gap, predictions
from studies.organisms.mixture.train import Recipe
from studies.organisms.names import names
from studies.organisms.training import command

RECIPE = Recipe(layers=3, width=64, hidden=96, steps=1_200, rate=3e-3, batch=64, decay=0.1, warmup=50)


@torch.no_grad()
def measured(model: Any) -> dict[str, float]:
    """Held-out excess over the Bayes predictor (nats), accuracy and logit difference at the receiver."""
    corpus = names.corpus
    pairs = corpus.pairs(500, seed=1)
    rows = torch.arange(500)
    scores = model(pairs.clean).logits[rows, pairs.position]
    right = predictions(model, pairs.clean)[rows, pairs.position] == pairs.answer
    difference = scores[rows, pairs.answer] - scores[rows, pairs.wrong]
    table = {
        "excess": gap(model, corpus.heldout(500, seed=1), names.scored)[0],
        "accuracy": float(right.float().mean()),
    }
    return table | {"logit difference": float(difference.mean())}


if __name__ == "__main__":
    command(names, RECIPE, measured)
