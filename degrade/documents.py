"""What a model pays for whole documents: token ids that it shares with another, or texts where tokenizers differ."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from degrade.data import Examples
from degrade.losses import IGNORED, Loss, next_token_loss
from degrade.potential import example_nats

START = ("bos_token_id", "eos_token_id")


@contextmanager
def evaluated(model: nn.Module) -> Iterator[torch.device]:
    """The model in eval mode for some time, and its device."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    finally:
        for part, mode in modes.items():
            part.training = mode


def document_nats(model: nn.Module, data: Any, loss: Loss = next_token_loss) -> tuple[np.ndarray, np.ndarray]:
    """Summed nats and scored units of each document, both float64 of shape (documents,)."""
    with evaluated(model) as device:
        nats, count = example_nats(model, loss, Examples(data), device)
    return nats.double().cpu().numpy(), count.double().cpu().numpy()


def text_nats(model: nn.Module, tokenizer: Any, texts: Sequence[str], batch: int = 16) -> np.ndarray:
    """−log p of whole texts given the token that starts a document (bos, else eos), summed over their tokens.

    This is the probability of the tokenizer's own segmentation: an upper bound on −log p of the string.

    Args:
        model: Causal language model.
        tokenizer: A Hugging Face tokenizer.
        texts: Documents, none empty.
        batch: Texts a forward pass.

    Returns:
        Nats, shape (texts,).

    Raises:
        ValueError: if there is no starting token, a text is empty, holds words the tokenizer does not know, or is
            longer than the model's context.
    """
    start = next((token for name in START if (token := getattr(tokenizer, name, None)) is not None), None)
    if start is None:
        raise ValueError(
            "the tokenizer has neither a bos nor an eos token, so the first token of a text has no context"
        )
    rows = [[start, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    _check_rows(rows, tokenizer, context_of(model))
    parts = [document_nats(model, _padded(rows[i : i + batch]))[0] for i in range(0, len(rows), batch)]
    return np.concatenate(parts)


def _check_rows(rows: Sequence[Sequence[int]], tokenizer: Any, context: float) -> None:
    unknown = getattr(tokenizer, "unk_token_id", None)
    for place, row in enumerate(rows):
        if len(row) < 2:
            raise ValueError(f"text {place} is empty: there is nothing to score")
        if unknown is not None and unknown in row[1:]:
            raise ValueError(f"text {place} holds what the tokenizer does not know, so its bytes are not all scored")
        if len(row) > context:
            raise ValueError(
                f"text {place} has {len(row)} tokens, its start included, and the model's context is {context:g}: cut"
                " texts to what both models can read at once, so that both see the same context"
            )


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Token ids and labels of texts of unequal length; what follows a text changes nothing in a causal model."""
    length = max(map(len, rows))
    tokens = torch.tensor([[*row, *[row[0]] * (length - len(row))] for row in rows])
    ends = torch.tensor([len(row) for row in rows])
    labels = torch.where(torch.arange(length) < ends[:, None], tokens, IGNORED)
    return {"input_ids": tokens, "labels": labels}


def context_of(model: Any) -> float:
    """Longest sequence that a model reads; infinite where it does not say."""
    told = (("cfg", "n_ctx"), ("config", "max_position_embeddings"), ("config", "n_positions"))
    found = [getattr(getattr(model, owner, None), name, None) for owner, name in told]
    return float(next((size for size in found if size), math.inf))
