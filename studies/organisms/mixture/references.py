"""What a model of the mixture corpus reaches: losses against the exact entropy, accuracies, n-gram models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from studies.organisms.mixture.corpus import Corpus, Sample


def token_nats(model: Any, tokens: Tensor) -> Tensor:
    """-log p of every token after the first under a model that returns logits or an object with `.logits`.

    Args:
        model: Causal language model.
        tokens: (n, T) token ids.

    Returns:
        (n, T - 1) nats.
    """
    output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    flat = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1)


@torch.no_grad()
def sample_nats(model: Any, sample: Sample, batch: int = 256) -> np.ndarray:
    """Mean loss of each sequence of a sample, shape (n,), in nats per token."""
    parts = [token_nats(model, tokens).double().mean(1) for tokens in sample.tokens.split(batch)]
    return torch.cat(parts).numpy()


def gap(model: Any, sample: Sample) -> tuple[float, float]:
    """L(model) - H with the Bayes predictor's loss on the same tokens as control variate.

    E[-log p_Bayes] = H exactly, so mean(-log p_model + log p_Bayes) estimates the same gap as mean(-log p_model) - H
    without the noise of the text.

    Args:
        model: Causal language model.
        sample: Sequences with their surprisal.

    Returns:
        Mean and standard error over sequences, in nats per token.
    """
    excess = sample_nats(model, sample) - sample.surprisal.mean(1)
    return float(excess.mean()), float(excess.std(ddof=1) / len(excess) ** 0.5)


def excesses(model: Any, corpus: Corpus, n: int, seed: int) -> dict[str, float]:
    """Exact gap of each kind on `n` fresh sequences, and of the mixture ("all"), in nats per token."""
    by_kind = {kind: gap(model, corpus.of_kind(kind, n, seed))[0] for kind in corpus.shares}
    return by_kind | {"all": sum(share * by_kind[kind] for kind, share in corpus.shares.items())}


@torch.no_grad()
def accuracies(model: Any, corpus: Corpus, n: int, seed: int) -> dict[str, float]:
    """Accuracy on each group of questions, on the repeats of repeated segments, and on canaries by copies.

    Induction counts the tokens of "repeat" sequences whose entropy is 0, recital the tokens of a canary after the
    first eight.
    """
    asked = corpus.queries(n, seed)
    rows = torch.arange(len(asked.answer))
    right = (predictions(model, asked.tokens)[rows, asked.position] == asked.answer).numpy()
    table = {name: float(right[asked.group == name].mean()) for name in dict.fromkeys(asked.group.tolist())}
    repeats = corpus.of_kind("repeat", n, seed)
    table["induction"] = float(hits(model, repeats.tokens)[repeats.entropy == 0].mean())
    planted = corpus.canaries()
    recited = hits(model, planted.tokens)[:, 8:].mean(1)
    return table | {f"canary {level}": float(recited[planted.copies == level].mean()) for level in corpus.design.copies}


def predictions(model: Any, tokens: Tensor) -> Tensor:
    """Most probable next token at every position, (n, T)."""
    output = model(tokens)
    return (output if isinstance(output, Tensor) else output.logits).argmax(-1)


def hits(model: Any, tokens: Tensor) -> np.ndarray:
    """Whether each token after the first is predicted, (n, T - 1) bool."""
    return (predictions(model, tokens)[:, :-1] == tokens[:, 1:]).numpy()
