"""`degrade.llc`: the local learning coefficient of a network at one inverse temperature, and of a row of checkpoints.

    λ̂ = nβ (E[L(w)] − L(w*)),      w from  exp(−nβ ΔL(w) − ½ Σ_t ‖w_t − w*_t‖²/s_t²)

Lau et al. 2023 (arXiv:2308.12108); with `only`, the weight-refined, and with `subset`, the data-refined coefficient of
Wang et al. 2024 (arXiv:2410.02984). It is one rung of a ladder, judged as a rung is; burn-in is never averaged.

L(w) and L(w*) are compared on the same minibatch, with L(w*) known for every example: a chain that has not moved has
λ̂ = 0 exactly, and what noise a minibatch leaves in the difference is in the trace, hence in the standard error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn
from torch.utils.data import Subset

from degrade.build import ladder
from degrade.coefficient import LLC
from degrade.data import Examples
from degrade.losses import Loss, next_token_loss
from degrade.potential import example_nats

COOLED_FROM = 3.0

Checkpoint = nn.Module | Mapping[str, Tensor]


def llc(
    model: nn.Module,
    data: Any,
    nbeta: float | None = None,
    n: float | None = None,
    loss: Loss = next_token_loss,
    width: float | None = None,
    gamma: float | None = None,
    only: Any = None,
    subset: Sequence[int] | Tensor | np.ndarray | None = None,
    **settings: Any,
) -> LLC:
    """The local learning coefficient λ̂ = nβ (E[L(w)] − L(w*)) of a trained network.

    Args:
        model: a trained network, given back bit for bit.
        data: the examples L is the mean loss of.
        nbeta: inverse temperature, per unit of the loss (tokens, examples); default n / ln n (Watanabe 2013).
        n: for the default only: the size of the data in units of the loss; default Σ count.
        loss: `loss(model, batch) -> (nats, count)`, each of shape (batch,).
        width: neighbourhood s_t = width · rms(w*_t); or
        gamma: isotropic precision of Lau et al., s_t = γ^(−½). One of the two; λ̂ depends on it.
        only: restrict the weights: a regular expression, a head as `blocks.1.attn.head.3`, a list, or masks.
        subset: restrict the data: numbers, or a boolean for each, of the examples that the potential is made of.
        **settings: of `degrade.ladder`: steps, burn_in, chains, batch_size, sampler, preconditioner, step_size, seed,
            evaluation, ... Published settings are given as they stand, e.g. gamma=300, nbeta=30,
            preconditioner="rmsprop", sampler="ula", step_size=1e-3, batch_size=32, chains=4, steps=200, burn_in=100:
            w ← w − (ε/2) P ∇U + √(εP) ξ. Weights of draws are kept only with keep="weights". With cool=True the chains
            also go to a third of nβ and back, and the verdict can be plain `ok`.

    Returns:
        An `LLC`: `.llc .se .per_chain .per_example .verdict .reason .table .traces`, `.on(groups)`, `.plot_traces()`,
        `.to_xarray()`, and `.ladder` for `degrade.influence`.

    Raises:
        ValueError: for settings that do not fit together, or n too small for n / ln n.

    Example:
        >>> import torch, degrade
        >>> x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> model.weight.data = x.mean(0, keepdim=True)   # the minimum of the loss below, with Hessian 1
        >>> square = lambda model, x: ((model.weight - x) ** 2).sum(1) / 2
        >>> result = degrade.llc(model, x, nbeta=100.0, loss=square, gamma=1.0, steps=200, burn_in=50, progress=False)
        >>> abs(result.llc - 0.5 * 4 * 100 / 101) < 5 * result.se
        True
    """
    data = data if subset is None else _subset(data, subset)
    chosen = _nbeta(model, data, loss, nbeta, n)
    settings = {"keep": "none"} | settings
    nbetas = [chosen, chosen / COOLED_FROM] if settings.get("cool") else [chosen]
    return LLC(ladder(model, data, nbetas=nbetas, loss=loss, width=width, gamma=gamma, only=only, **settings))


def llcs(
    checkpoints: Sequence[Checkpoint] | Mapping[str, Checkpoint],
    data: Any,
    model: nn.Module | None = None,
    nbeta: float | None = None,
    n: float | None = None,
    loss: Loss = next_token_loss,
    subset: Sequence[int] | Tensor | np.ndarray | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """λ̂ of several checkpoints, all at one setting.

    Args:
        checkpoints: models, or state dicts to be loaded into `model`; a list, or {name: checkpoint}.
        data: this and all other arguments as for `llc`; the default nbeta is found once and used for all.
        model: the architecture of state dicts; its own weights come back in any case.
        nbeta: see `llc`.
        n: see `llc`.
        loss: see `llc`.
        subset: see `llc`.
        **settings: see `llc`.

    Returns:
        A row a checkpoint: checkpoint (its name or number) and the columns of `LLC.table`. A checkpoint whose chains
        run away at every step size has verdict "failed", with the cause as reason.

    Raises:
        ValueError: if there is no checkpoint, or state dicts come without a model.
    """
    data = data if subset is None else _subset(data, subset)
    rows: list[pd.DataFrame] = []
    for name, checkpoint in _named(checkpoints).items():
        with _carrying(model, checkpoint, name) as present:
            nbeta = _nbeta(present, data, loss, nbeta, None if rows else n)
            try:
                row = llc(present, data, nbeta, loss=loss, **settings).table
            except RuntimeError as fault:
                row = pd.DataFrame([{"nbeta": nbeta, "verdict": "failed", "reason": str(fault)}])
        row.insert(0, "checkpoint", name)
        rows.append(row)
    return pd.concat(rows, ignore_index=True)


def _named(checkpoints: Sequence[Checkpoint] | Mapping[str, Checkpoint]) -> dict[Any, Checkpoint]:
    named = dict(checkpoints) if isinstance(checkpoints, Mapping) else dict(enumerate(checkpoints))
    if not named:
        raise ValueError("there is no checkpoint; expected a list of models or state dicts, or {name: checkpoint}")
    if any(isinstance(value, Tensor) for value in named.values()):
        raise ValueError("a single state dict was given; expected a list of them, or {name: state dict}")
    return named


@contextmanager
def _carrying(model: nn.Module | None, checkpoint: Checkpoint, name: Any) -> Iterator[nn.Module]:
    """A model with the checkpoint's weights for some time."""
    if isinstance(checkpoint, nn.Module):
        yield checkpoint
        return
    if model is None:
        raise ValueError(f"checkpoint {name!r} is a state dict; expected model=..., the module to load it into")
    own = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(checkpoint)
        yield model
    finally:
        model.load_state_dict(own)


def _nbeta(model: nn.Module, data: Any, loss: Loss, nbeta: float | None, n: float | None) -> float:
    """The inverse temperature asked for, or n / ln n."""
    if nbeta is not None and n is not None:
        raise ValueError(f"nbeta={nbeta} and n={n} were given; expected one: n only serves for the default n / ln n")
    if nbeta is not None:
        return float(nbeta)
    n = _units(model, data, loss) if n is None else float(n)
    if not 3 <= n < math.inf:
        raise ValueError(f"n={n:g} units of data; n / ln n needs a finite n of at least 3: give nbeta")
    return n / math.log(n)


def _units(model: nn.Module, data: Any, loss: Loss) -> float:
    """Σ count over the data, by one pass in eval mode."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        return float(example_nats(model, loss, Examples(data), next(model.parameters()).device)[1].double().sum())
    finally:
        for part, mode in modes.items():
            part.training = mode


def _subset(data: Any, chosen: Sequence[int] | Tensor | np.ndarray) -> Any:
    """Some examples of any data, by number or by a boolean for each."""
    size, index = len(Examples(data)), np.asarray(chosen)
    if index.dtype == bool and index.shape == (size,):
        index = np.flatnonzero(index)
    if (
        index.ndim != 1
        or not len(index)
        or index.dtype.kind not in "iu"
        or not (0 <= index.min() <= index.max() < size)
    ):
        raise ValueError(
            f"subset has shape {np.shape(chosen)} and type {index.dtype}; expected numbers from 0 to {size - 1} of at"
            f" least one example, or a boolean for each of the {size}"
        )
    if isinstance(data, Tensor | tuple | Mapping):
        return Examples(data).batch(index)
    return Subset(data, index.tolist())
