"""Train the induction organism: `python -m studies.organisms.induction.train --out DIR`."""

from __future__ import annotations

from typing import Any

import torch

from studies.organisms.induction import induction
from studies.organisms.mixture.references import gap, hits
from studies.organisms.mixture.train import Recipe
from studies.organisms.training import command

RECIPE = Recipe(layers=2, width=64, hidden=96, steps=800, rate=4e-3, batch=64, decay=0.1, warmup=50)


@torch.no_grad()
def measured(model: Any) -> dict[str, float]:
    """Held-out excess over the Bayes predictor (nats per token), and accuracy on the tokens that are determined."""
    sample = induction.corpus.heldout(500, seed=1)
    right = hits(model, sample.tokens)[sample.entropy == 0]
    return {"excess": gap(model, sample)[0], "accuracy": float(right.mean())}


if __name__ == "__main__":
    command(induction, RECIPE, measured)
