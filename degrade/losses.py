"""Losses: what a model pays for each example, in nats, and in how many scored units.

A loss is any callable `loss(model, batch) -> (nats, count)`, both of shape (batch,): summed nats and scored units of
each example. A bare (batch,) tensor means one unit an example. The mean loss of a data set is Σ nats / Σ count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Any, Any], Any]

IGNORED = -100


def logits_of(output: Any) -> Tensor:
    """Logits of a model's output: the output itself, or its `.logits`."""
    return output if isinstance(output, Tensor) else output.logits


@dataclass(frozen=True)
class Scored:
    """Cross-entropy against given labels, or against labels drawn from the model itself.

    Args of the call: `model(inputs)` gives logits of shape (batch, ..., classes). With `shift`, inputs are token ids
    of shape (batch, time) and position t predicts token t+1; a dict batch may carry `attention_mask` and `labels`
    (-100 is not scored). Without `shift`, a batch is a pair (inputs, labels).

    Returns (nats, count), each of shape (batch,): summed nats, and scored tokens (`shift`) or labels.

    >>> import torch
    >>> from torch import nn
    >>> nats, count = next_token_loss(nn.Embedding(4, 4), torch.tensor([[0, 1, 2], [3, 3, 3]]))
    >>> nats.shape, count.tolist()
    (torch.Size([2]), [2.0, 2.0])
    """

    shift: bool
    unit: str

    def __call__(self, model: Callable[..., Any], batch: Any) -> tuple[Tensor, Tensor]:
        """Summed nats and scored units of each example."""
        logits, labels = self._logits_and_labels(model, batch)
        return _cross_entropy(logits, labels)

    def sampled(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same loss at labels drawn from the model: its squared gradient averages to the Fisher information."""
        logits, labels = self._logits_and_labels(model, batch)
        chances = logits.detach().float().softmax(-1).flatten(0, -2)
        drawn = torch.multinomial(chances, 1, generator=generator).view(labels.shape)
        return _cross_entropy(logits, torch.where(labels == IGNORED, labels, drawn))

    def hits(self, model: Callable[..., Any], batch: Any) -> tuple[Tensor, Tensor]:
        """How many scored units of each example have the largest logit at their label, and how many are scored."""
        logits, labels = self._logits_and_labels(model, batch)
        scored = labels != IGNORED
        right = (logits.argmax(-1) == labels) & scored
        return right.view(len(labels), -1).sum(1), scored.view(len(labels), -1).sum(1)

    def _logits_and_labels(self, model: Callable[..., Any], batch: Any) -> tuple[Tensor, Tensor]:
        if not self.shift:
            inputs, labels = batch
            return logits_of(model(inputs)), labels
        tokens, labels = _tokens_and_labels(batch)
        return logits_of(model(tokens))[:, :-1], labels[:, 1:]


def _tokens_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Tensor):
        return batch, batch
    if not isinstance(batch, Mapping):
        return batch[0], batch[0]
    tokens = batch["input_ids"]
    labels = batch.get("labels", tokens)
    mask = batch.get("attention_mask")
    return tokens, labels if mask is None else torch.where(mask.bool(), labels, IGNORED)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    nats = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    scored = (labels != IGNORED).float()
    return nats.view(len(labels), -1).sum(1), scored.view(len(labels), -1).sum(1)


next_token_loss = Scored(shift=True, unit="token")
label_loss = Scored(shift=False, unit="example")


def unit_of(loss: Loss) -> str:
    """What the loss counts: 'token', 'example', or the loss's own `unit`."""
    return getattr(loss, "unit", "example")


def measure(loss: Loss, model: nn.Module, batch: Any, size: int) -> tuple[Tensor, Tensor]:
    """Call a loss and check what it returns.

    Returns (nats, count), each float of shape (size,), nats with its graph.

    Raises:
        ValueError: if the loss is a scalar, has another length than the batch, or scores nothing.
    """
    value = loss(model, batch)
    nats, count = value if isinstance(value, tuple) else (value, None)
    if not isinstance(nats, Tensor) or nats.shape != (size,):
        got = tuple(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
        raise ValueError(
            f"the loss returned {got if got != () else 'a scalar'} for a batch of {size} examples; expected summed nats"
            f" of each example, shape ({size},), or a pair (nats, count) of that shape: do not average over the batch"
        )
    if count is None:
        count = torch.ones_like(nats)
    if count.shape != (size,):
        raise ValueError(f"the loss returned counts of shape {tuple(count.shape)}; expected one an example, ({size},)")
    return nats.float(), count.detach().float()


@dataclass(frozen=True)
class Replay:
    """A model that has answered already: returns the given logits, scaled, whatever it is asked."""

    logits: Tensor
    scale: float = 1.0

    def __call__(self, *_: Any, **__: Any) -> Tensor:
        """The scaled logits."""
        return self.logits * self.scale
