"""Scales on the loss axis: what an untrained network and n-grams pay, and how far a model is from a better one.

The natural gap of a model is L(model) − L(better model) on the same documents; where the law of the text is known, the
exact gap is L(model) − H. Both are means of paired differences per document, hence far less noisy than either loss.
Where two tokenizers differ, nats per token cannot be compared, and nats per byte of the same text are.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from degrade.data import Examples
from degrade.documents import document_nats, evaluated, text_nats
from degrade.losses import Loss, next_token_loss, unit_of
from degrade.ngrams import ngram_nats
from degrade.potential import calibrated_loss as calibrated
from degrade.potential import example_nats


class Scale(NamedTuple):
    """A loss, or a difference of losses.

    Attributes:
        value: In nats per `unit`; nan where there is none, for the reason in `note`.
        se: Standard error over documents (or chains, for rises), nan where unknown.
        unit: What nats are counted by: token, answer, byte, ...
        documents: How many there were; 0 where it does not come from documents.
        note: What restricts it.
    """

    value: float
    se: float
    unit: str = "token"
    documents: int = 0
    note: str = ""


def mean_loss(nats: ArrayLike, count: ArrayLike, unit: str = "token") -> Scale:
    """Σ nats / Σ count over documents, with the standard error of the ratio.

    Args:
        nats: Summed nats of each document, shape (documents,).
        count: Units of each document, shape (documents,).
        unit: Their name.
    """
    return gap(nats, np.zeros_like(np.asarray(nats, float)), count, unit)


def gap(own: ArrayLike, reference: ArrayLike, count: ArrayLike | None = None, unit: str = "token") -> Scale:
    """L(model) − L(reference) on the same documents: G = Σ dᵢ / Σ cᵢ with dᵢ the paired difference of document i.

    se(G) = √(n/(n−1) Σ (dᵢ − G cᵢ)²) / Σ cᵢ, the ratio estimator's (Cochran 1977, eq. 6.13).

    Args:
        own: Summed nats of each document under the model, shape (documents,).
        reference: The same under a better model; or the surprisal of the law the documents were drawn from, whose mean
            is the entropy: then the gap is exact up to the documents that were drawn.
        count: Units of each document (tokens, answers, bytes); None: one each.
        unit: Their name.

    Raises:
        ValueError: if there are fewer than two documents, or the shapes differ.

    >>> gap([2.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    Scale(value=1.0, se=0.577..., unit='token', documents=3, note='')
    """
    first, second = np.asarray(own, float), np.asarray(reference, float)
    size = np.ones_like(first) if count is None else np.asarray(count, float)
    if first.ndim != 1 or len(first) < 2 or not first.shape == second.shape == size.shape:
        raise ValueError(
            f"own, reference and count have shapes {first.shape}, {second.shape} and {size.shape}; expected one entry"
            " for each of at least two documents, the same documents in the same order"
        )
    difference = first - second
    value = float(difference.sum() / size.sum())
    squares = float(((difference - value * size) ** 2).sum())
    error = math.sqrt(squares * len(first) / (len(first) - 1)) / float(size.sum())
    return Scale(value, error, unit, len(first))


def natural_gap(model: nn.Module, reference: nn.Module | ArrayLike, data: Any, loss: Loss = next_token_loss) -> Scale:
    """L(model) − L(reference) of two models that read the same tokens.

    Args:
        model: The model.
        reference: A better model; or summed nats of each document as recorded from one, or as surprisals of the law
            that the documents were drawn from (the exact gap).
        data: Documents, as `degrade.ladder` takes them; each is scored from its own start.
        loss: `loss(model, batch) -> (nats, count)`.

    Returns:
        The gap in nats per unit of the loss.

    Raises:
        ValueError: if the two score different units of a document.
    """
    own, count = document_nats(model, data, loss)
    if not isinstance(reference, nn.Module):
        return gap(own, reference, count, unit_of(loss))
    other, counted = document_nats(reference, data, loss)
    if (count != counted).any():
        raise ValueError("the two models score different units of the same documents: compare texts with text_gap")
    return gap(own, other, count, unit_of(loss))


def text_gap(model: nn.Module, tokenizer: Any, reference: nn.Module, other: Any, texts: Sequence[str]) -> Scale:
    """L(model) − L(reference) in nats per byte, for models whose tokenizers differ.

    One context rule for both: each text is scored whole, from its own start, by `text_nats`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        reference: A better model.
        other: The tokenizer of that one.
        texts: Documents.
    """
    size = [len(text.encode()) for text in texts]
    return gap(text_nats(model, tokenizer, texts), text_nats(reference, other, texts), size, "byte")


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A fresh network of the same architecture, as it is initialised before training: L₀ of the essay is its loss.

    Args:
        model: A Hugging Face model or a bridge around one, or a module of layers that know `reset_parameters`.
        seed: Of the initialisation.

    Raises:
        ValueError: if some parameter's initialisation is not known.
    """
    whole: Any = model
    inner = getattr(whole, "original_model", whole)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(inner)(inner.config) if hasattr(inner, "save_pretrained") else _reset(model)
    return fresh.to(device).eval()


def _reset(model: nn.Module) -> nn.Module:
    import copy

    twin = copy.deepcopy(model)
    known: set[int] = set()
    for part in twin.modules():
        if callable(again := getattr(part, "reset_parameters", None)):
            again()
            known |= {id(parameter) for parameter in part.parameters()}
    lacking = [name for name, parameter in twin.named_parameters() if id(parameter) not in known]
    if lacking:
        raise ValueError(f"how {lacking[0]!r} is initialised is not known; give its module a reset_parameters()")
    return twin


def baselines(
    model: nn.Module, training: np.ndarray, tokens: Tensor, vocabulary: int, orders: Sequence[int] = (1, 2, 3)
) -> dict[str, Scale]:
    """Losses of what knows little: an untrained network, and n-gram models of the training set.

    Args:
        model: Names the architecture.
        training: Token ids of the training set, shape (rows, T).
        tokens: Token ids of held-out documents, shape (documents, T).
        vocabulary: Number of token ids.
        orders: n of the n-grams.

    Returns:
        By name ("untrained", "n-gram 1", ...), in nats per token.
    """
    count = np.full(len(tokens), tokens.shape[1] - 1.0)
    found = {"untrained": mean_loss(*document_nats(untrained(model), tokens))}
    for order in orders:
        nats = ngram_nats(training, tokens.cpu().numpy(), order, vocabulary).sum(1)
        found[f"n-gram {order}"] = mean_loss(nats, count)
    return found


def watanabe(n: float) -> float:
    """nβ = n / ln n, at which E[ΔL] estimates λ ln n / n (Watanabe 2013); n in units of the loss.

    Raises:
        ValueError: if n is below 3.
    """
    if not 3 <= n < math.inf:
        raise ValueError(f"n={n:g} units of data; n / ln n needs a finite n of at least 3")
    return n / math.log(n)


def rise_at(table: pd.DataFrame, nbeta: float, unit: str = "token") -> Scale:
    """The rise E[ΔL] at an inverse temperature, read off a ladder: log rise is linear in log nβ between two rungs.

    Args:
        table: `ladder.table`; failed rungs are not used.
        nbeta: Inverse temperature, say `watanabe(n)`.
        unit: Of the loss.

    Returns:
        The rise with its standard error; without a value where the ladder does not reach the temperature.
    """
    rungs = table[(table["rung"] > 0) & (table["verdict"] != "failed") & (table["rise"] > 0)].sort_values("nbeta")
    known = rungs["nbeta"].to_numpy(float)
    if not len(known) or not known[0] <= nbeta <= known[-1]:
        reach = f"{known[0]:.3g} to {known[-1]:.3g}" if len(known) else "none"
        return Scale(math.nan, math.nan, unit, 0, f"nβ = {nbeta:.3g} is outside the ladder's temperatures ({reach})")
    x, y = np.log(known), np.log(rungs["rise"].to_numpy(float))
    relative = rungs["rise_se"].to_numpy(float) / rungs["rise"].to_numpy(float)
    weights = np.array([np.interp(math.log(nbeta), x, row) for row in np.eye(len(x))])
    value = math.exp(float(weights @ y))
    return Scale(value, value * float(np.sqrt(((weights * relative) ** 2).sum())), unit)


def axes(model: nn.Module, data: Any, loss: Any = next_token_loss) -> dict[str, float]:
    """Three axes for one dial: the mean loss, the loss calibrated by a logit temperature, and the accuracy.

    A network can change its loss by scaling its logits alone; the calibrated loss, min over τ of the loss at logits τz,
    and the accuracy do not see that.

    Args:
        model: The network, trained or degraded.
        data: Documents.
        loss: A `degrade.losses.Scored`; of another loss only the first axis is known, the others are nan.

    Returns:
        "loss" and "calibrated loss" in nats per unit, "accuracy" as a share of the units.
    """
    nats, count = document_nats(model, data, loss)
    with evaluated(model) as device:
        scaled = calibrated(model, loss, Examples(data), device)
        right = example_nats(model, loss.hits, Examples(data), device)[0] if hasattr(loss, "hits") else None
    share = math.nan if right is None else float(right.double().sum() / count.sum())
    return {"loss": float(nats.sum() / count.sum()), "calibrated loss": scaled, "accuracy": share}
