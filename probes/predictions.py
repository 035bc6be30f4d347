"""What a model says about each next token: its loss, and whether its first guess is right."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from probes.hooks import logits

BATCH = 256  # sequences a forward pass: bounds memory, and larger ones are no faster on a CPU


class Predictions(NamedTuple):
    """Both of shape (n, T - 1), entry t about token t + 1 given the tokens up to t.

    Attributes:
        nats: -log p of the token that came, in nats.
        hit: Whether it had the largest logit.
    """

    nats: Tensor
    hit: Tensor


def predictions(model: Any, tokens: Tensor, batch: int = BATCH) -> Predictions:
    """Teacher-forced predictions of tokens 1..T-1, on the CPU.

    Args:
        model: Bridge, Hugging Face model or module returning logits, in eval mode.
        tokens: Token ids, shape (n, T).
        batch: Sequences a forward pass.

    >>> eye = torch.nn.Embedding.from_pretrained(10.0 * torch.eye(4)).eval()  # predicts the token it reads
    >>> predictions(eye, torch.tensor([[2, 2, 3]])).hit
    tensor([[ True, False]])
    """
    parts = [_predict(model, part) for part in tokens.split(batch)]
    return Predictions(torch.cat([part.nats for part in parts]), torch.cat([part.hit for part in parts]))


@torch.no_grad()
def _predict(model: Any, tokens: Tensor) -> Predictions:
    scores = logits(model, tokens)[:, :-1].cpu()
    target = tokens[:, 1:].cpu()
    nats = functional.cross_entropy(scores.transpose(1, 2), target, reduction="none")
    return Predictions(nats, scores.argmax(-1) == target)


@torch.no_grad()
def logits_at(model: Any, tokens: Tensor, position: Tensor, batch: int = BATCH) -> Tensor:
    """Logits of each sequence at one position, on the CPU.

    Args:
        model: As for `predictions`.
        tokens: Token ids, shape (n, T).
        position: Index of each sequence, shape (n,).
        batch: Sequences a forward pass.

    Returns:
        Shape (n, V).
    """
    parts = []
    for part, where in zip(tokens.split(batch), position.split(batch), strict=True):
        parts.append(logits(model, part).cpu()[torch.arange(len(part)), where.cpu()])
    return torch.cat(parts)
