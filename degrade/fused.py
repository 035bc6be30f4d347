"""Bridges of models with one layer for queries, keys and values: the three as parts of that layer, not beside it.

When TransformerLens wraps such a model (GPT-2, GPT-NeoX, ...) it makes three layers of the one, as views of its weights
or as copies, and lists them beside it. A view would get its noise twice; of a copy and its original, only one is read.
Here the three read the one layer's weights at every call, so that the bridge has the model's parameters and no others.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FUSED = "JointQKVAttentionBridge"
THREE = ("q", "k", "v")


class Rows(nn.Module):
    """Some output features of a linear layer as a layer of their own: y = x W[rows]ᵀ + b[rows].

    It has no parameters: W and b are read from the layer at each call, and gradients go there.

    Args:
        layer: Linear, or a Conv1D of transformers, whose weight is the transpose.
        rows: Indices of output features, shape (features,).

    >>> layer = nn.Linear(2, 6)
    >>> part, x = Rows(layer, torch.tensor([4, 1])), torch.ones(3, 2)
    >>> torch.allclose(part(x), layer(x)[:, [4, 1]]), len(list(part.parameters()))
    (True, 0)
    """

    rows: Tensor

    def __init__(self, layer: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple, so that its parameters are not listed under a second name
        first, count = int(rows[0]), len(rows)
        whole = torch.equal(rows, torch.arange(first, first + count))
        self.span = slice(first, first + count) if whole else None
        self.register_buffer("rows", rows, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The rows of the layer's weight, shape (features, inputs); with their graph."""
        return self._part(_weight(self.layer[0]))

    @property
    def bias(self) -> Tensor | None:
        """The rows of the layer's bias, shape (features,), if it has one."""
        bias: Any = self.layer[0].bias
        return None if bias is None else self._part(bias)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return _weight(self.layer[0]).shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs at these rows."""
        return functional.linear(x, self.weight, self.bias)

    def _part(self, whole: Tensor) -> Tensor:
        return whole.index_select(0, self.rows) if self.span is None else whole[self.span]


def apart(model: nn.Module) -> list[str]:
    """Names of the attention layers of a bridge whose q, k and v are listed beside the one layer they were made of."""
    return [name for name, part in _attentions(model) if not isinstance(part.q.original_component, Rows)]


def join(model: Any) -> Any:
    """Make q, k and v of a bridge parts of the model's own layer again; the function stays the same.

    Args:
        model: A TransformerBridge, changed in place; one without such layers is left as it is.

    Returns:
        The bridge, whose `parameters()` are those of the model it wraps, each storage once.

    Raises:
        ValueError: if a layer was not split by output features, or its weights were changed since (folded, say).
    """
    for name, attention in _attentions(model):
        if isinstance(attention.q.original_component, Rows):
            continue
        layer = attention.qkv.original_component
        parts = [Rows(layer, rows.to(layer.weight.device)) for rows in _split(name, attention, layer)]
        for letter, part in zip(THREE, parts, strict=True):
            _check_same(f"{name}.{letter}", getattr(attention, letter).original_component, part)
            getattr(attention, letter).set_original_component(part)
        for number, hook in list(attention._state_dict_hooks.items()):
            if "filter_qkv" in getattr(hook, "__name__", ""):  # it leaves the layer out of the state, as a copy
                del attention._state_dict_hooks[number]
    return model


def _attentions(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in model.named_modules():
        if any(kind.__name__ == FUSED for kind in type(part).__mro__):
            yield name, part


def _weight(layer: nn.Module) -> Tensor:
    """A linear layer's weight, output features first."""
    weight: Any = layer.weight
    return weight.T if type(layer).__name__ == "Conv1D" else weight


def _split(name: str, attention: Any, layer: Any) -> list[Tensor]:
    """Which output features of the layer q, k and v are: the split of a weight whose every row is its own number."""
    features, inputs = _weight(layer).shape
    numbers = torch.arange(features, dtype=torch.float64)[:, None].expand(features, inputs)
    numbers = numbers.T if _weight(layer) is not layer.weight else numbers
    own = layer.weight
    try:
        layer.weight = nn.Parameter(numbers.contiguous())
        three = [part.weight.detach() for part in attention.split_qkv_matrix(attention.original_component)]
    finally:
        layer.weight = own
    rows = [part[:, 0].round().long() for part in three]
    plain = all(torch.equal(part, part[:, :1].expand_as(part)) for part in three)
    if not plain or not torch.equal(torch.cat(rows).sort().values, torch.arange(features)):
        raise ValueError(
            f"{name!r} ({type(attention).__name__}) does not split its fused layer by output features, so q, k and v"
            " cannot be made parts of it: pass the Hugging Face model itself, before it is wrapped"
        )
    return rows


def _check_same(name: str, old: Any, new: Rows) -> None:
    ours, theirs = (new.weight, new.bias), (old.weight, old.bias)
    same = all(
        one is two or (one is not None and two is not None and torch.equal(one, two))
        for one, two in zip(ours, theirs, strict=True)
    )
    if not same:
        raise ValueError(
            f"{name!r} no longer has the weights of the fused layer that it was split from (they were written to, or"
            " folded in compatibility mode): wrap the model anew"
        )
