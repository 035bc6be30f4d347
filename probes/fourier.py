"""Fourier terms of modular addition: what in a table of logits, embeddings or neurons is made of which frequencies.

Tables of logits have shape (p, p, p) for the summands a, b and the sum c, centred over c; w_k = 2 pi k / p, with k from
1 to (p - 1) / 2 for odd p. After Nanda et al. 2023 (arXiv 2301.05217).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ENOUGH = 1.05  # restricted loss of the key frequencies, in units of that of all frequencies


def losses(logits: Tensor) -> Tensor:
    """-log softmax of the right sum for every pair, shape (p, p), from logits of shape (p, p, p), in nats."""
    p = len(logits)
    number = torch.arange(p)
    right = ((number[:, None] + number) % p)[:, :, None]
    return -logits.log_softmax(2).gather(2, right)[:, :, 0]


def by_sum(logits: Tensor) -> Tensor:
    """Mean over the pairs with a + b = u, shape (p, p) for u and c."""
    p = len(logits)
    number = torch.arange(p)
    return torch.stack([logits[number, (u - number) % p].mean(0) for u in range(p)])


def shares(logits: Tensor) -> Tensor:
    """Share of the logits' variance along cos(w_k (a + b - c)), k = 0..(p - 1) / 2, shape ((p + 1) / 2,).

    These functions are orthogonal with mean square 1/2, so that the share of k is (alpha_k² / 2) / mean square, with
    alpha_k = 2 mean(logits cos(w_k (a + b - c))). Entry 0 is 0: the logits are centred.
    """
    p, table = len(logits), by_sum(logits)
    number = torch.arange(p)
    rotated = torch.stack([table[(number + c) % p, c] for c in range(p)]).mean(0)  # mean by a + b - c
    alpha = 2 * torch.fft.rfft(rotated).real / p
    alpha[0] = 0
    return alpha.square() / 2 / logits.square().mean().clamp(min=torch.finfo(logits.dtype).tiny)


def key_frequencies(logits: Tensor) -> tuple[int, ...]:
    """The fewest frequencies, those with the largest shares, that the restricted loss can do with.

    That is, whose restricted loss is at most 5 % above that of all frequencies together.
    """
    p, order = len(logits), (shares(logits)[1:].argsort(descending=True) + 1).tolist()
    spectrum, bias = torch.fft.rfft(by_sum(logits), dim=0), logits.mean((0, 1))

    def loss(keys: Sequence[int]) -> float:
        kept = torch.zeros_like(spectrum)
        kept[keys] = spectrum[keys]
        table = torch.fft.irfft(kept, n=p, dim=0) + bias  # the restricted logits depend on a + b alone
        return -table.log_softmax(1).diagonal().mean().item()

    bound = ENOUGH * loss(order)
    count = next(n for n in range(1, len(order) + 1) if loss(order[:n]) <= bound)
    return tuple(sorted(order[:count]))


def rotations(logits: Tensor, keys: Sequence[int]) -> Tensor:
    """Projection, for every c, on cos(w_k (a + b)) and sin(w_k (a + b)) for the keys; shape (p, p, p)."""
    p = len(logits)
    spectrum = torch.fft.rfft(by_sum(logits), dim=0)
    kept = torch.zeros_like(spectrum)
    kept[list(keys)] = spectrum[list(keys)]
    number = torch.arange(p)
    return torch.fft.irfft(kept, n=p, dim=0)[(number[:, None] + number) % p]


def restricted(logits: Tensor, keys: Sequence[int]) -> Tensor:
    """The projection on the key rotations and the mean over all pairs, shape (p, p, p)."""
    return rotations(logits, keys) + logits.mean((0, 1))


def component_norms(table: Tensor) -> Tensor:
    """Norms of the cos and sin components over the first axis, without the constant: shape (p - 1,).

    Args:
        table: Shape (p, m).
    """
    p = len(table)
    spectrum = torch.fft.rfft(table, dim=0)[1:] * (2 / p) ** 0.5
    return torch.cat([spectrum.real.norm(dim=1), spectrum.imag.norm(dim=1)])


def gini(values: Tensor) -> float:
    """Gini coefficient sum_i (2 i - n - 1) x_(i) / (n sum x) of n values that are not negative; 0 if all are 0.

    >>> gini(torch.ones(4)), gini(torch.tensor([0.0, 0, 0, 1]))
    (0.0, 0.75)
    """
    ordered, n = values.double().sort()[0], len(values)
    weight = 2 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    return float((weight * ordered).sum() / (n * ordered.sum()).clamp(min=torch.finfo(torch.float64).tiny))


def single_frequency(neurons: Tensor) -> Tensor:
    """Largest share of each neuron's variance that one frequency explains, shape (neurons,), float64.

    Args:
        neurons: Activations by a and b, shape (p, p, neurons).
    """
    p = len(neurons)
    power = torch.fft.fft2(neurons - neurons.mean((0, 1)), dim=(0, 1)).abs().square().double()
    k = torch.arange(1, (p + 1) // 2)
    found = torch.zeros(len(k), neurons.shape[2], dtype=torch.float64)
    for i, j in ((0, 1), (1, 0), (1, 1), (1, -1)):  # the opposite frequencies -(i, j) have equal power
        found += 2 * power[(i * k) % p, (j * k) % p]
    total = power.sum((0, 1))
    return torch.where(total > 0, found.amax(0) / total.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
