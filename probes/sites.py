"""Sites of activation patching: where they are in a bridge, and how one activation is put in the place of another.

All sites are read and written in one layout, (n, T, heads, d), with a single "head" where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from probes.hooks import Edit, hooked, record


class Site(NamedTuple):
    """Where a patch goes.

    Attributes:
        hook: Name of the hook within its block.
        layout: "stream" for activations (n, T, d), "heads" for (n, T, heads, d), "pattern" for (n, heads, T, T).
    """

    hook: str
    layout: str


SITES = {
    "resid_pre": Site("hook_resid_pre", "stream"),
    "resid_mid": Site("hook_attn_out", "stream"),
    "resid_post": Site("hook_resid_post", "stream"),
    "attn_out": Site("hook_attn_out", "stream"),
    "mlp_out": Site("hook_mlp_out", "stream"),
    "q": Site("attn.hook_q", "heads"),
    "k": Site("attn.hook_k", "heads"),
    "v": Site("attn.hook_v", "heads"),
    "z": Site("attn.hook_z", "heads"),
    "pattern": Site("attn.hook_pattern", "pattern"),
}
"""By name. `resid_mid` is written through `attn_out`: see `patched`."""


class Patch(NamedTuple):
    """k activation vectors to be put into a batch, or k whole sequences of them where `positions` is everything.

    Attributes:
        rows: Sequence of each, shape (k,).
        positions: Position of each, shape (k,), or `slice(None)` for all positions at once.
        heads: Head of each, shape (k,); zeros where the site has none.
        values: Shape (k, d), or (k, T, d) for all positions.
    """

    rows: Tensor
    positions: Tensor | slice
    heads: Tensor
    values: Tensor


def names_of(sites: str | Sequence[str]) -> tuple[str, ...]:
    """Site names from a sequence or from one string.

    >>> names_of("q+k"), names_of(["z"])
    (('q', 'k'), ('z',))
    """
    return tuple(sites.split("+")) if isinstance(sites, str) else tuple(sites)


def check_sites(sites: Sequence[str]) -> None:
    """Refuse names that are no site.

    Raises:
        ValueError: Naming them and the choices.
    """
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise ValueError(f"unknown sites {unknown}; choose from {', '.join(SITES)}")


def check_model(model: Any, sites: Sequence[str]) -> None:
    """Refuse sites that a model's architecture does not have.

    Raises:
        ValueError: Naming the site, the reason and what to use instead.
    """
    if "resid_mid" in sites and getattr(model.cfg, "parallel_attn_mlp", False):
        raise ValueError(
            "site resid_mid does not exist here: attention and MLP of this architecture read the same stream in "
            "parallel, so nothing lies between them; use resid_pre, attn_out and mlp_out"
        )
    lacking = [site for site in sites for name in _hooks(site, 0) if name not in model.hook_dict]
    if lacking:
        raise ValueError(f"sites {sorted(set(lacking))} do not exist in this model; it has none of their hooks")


def activations(model: Any, tokens: Tensor, sites: Sequence[str]) -> dict[tuple[str, int], Tensor]:
    """Run once and keep what is at the sites of every layer.

    Returns:
        By (site, layer), each (n, T, heads, d).
    """
    places = [(site, layer) for site in sites for layer in range(model.cfg.n_layers)]
    _, kept = record(model, tokens, sorted({name for place in places for name in _hooks(*place)}))
    return {place: _read(kept, *place) for place in places}


def _hooks(site: str, layer: int) -> list[str]:
    own = f"blocks.{layer}.{SITES[site].hook}"
    return [f"blocks.{layer}.hook_resid_pre", own] if site == "resid_mid" else [own]


def _read(kept: dict[str, Tensor], site: str, layer: int) -> Tensor:
    found = [kept[name] for name in _hooks(site, layer)]
    return _spread(sum(found[1:], found[0]), SITES[site].layout)


def _spread(activation: Tensor, layout: str) -> Tensor:
    """To (n, T, heads, d)."""
    if layout == "stream":
        return activation.unsqueeze(2)
    return activation.transpose(1, 2) if layout == "pattern" else activation


def _folded(activation: Tensor, layout: str) -> Tensor:
    """Back from (n, T, heads, d)."""
    if layout == "stream":
        return activation.squeeze(2)
    return activation.transpose(1, 2) if layout == "pattern" else activation


@contextmanager
def patched(model: Any, site: str, layer: int, patch: Patch) -> Iterator[None]:
    """Run the model with some activations of a site replaced.

    The hook called `resid_mid` is, in transformer-lens 4.3, the input of the second norm: to write to it changes what
    the MLP reads, but not the stream. A stream of m is therefore written as an attention output of m - resid_pre, which
    gives resid_pre + (m - resid_pre) = m to rounding.

    Args:
        model: A bridge.
        site: Any of `SITES`.
        layer: Block.
        patch: What goes where.
    """
    own = f"blocks.{layer}.{SITES[site].hook}"
    edit = _put(patch, SITES[site].layout)
    if site != "resid_mid":
        with hooked(model, {own: edit}):
            yield
        return
    before: list[Tensor] = []
    with hooked(model, {f"blocks.{layer}.hook_resid_pre": before.append, own: _around(edit, before)}):
        yield


def _put(patch: Patch, layout: str) -> Callable[[Tensor], Tensor]:
    def put(activation: Tensor) -> Tensor:
        new = _spread(activation, layout).clone()
        new[patch.rows, patch.positions, patch.heads] = patch.values.to(new.dtype)
        return _folded(new, layout)

    return put


def _around(edit: Callable[[Tensor], Tensor], before: list[Tensor]) -> Edit:
    """The edit of a stream, as an edit of what is added to the last remembered one; untouched places stay bit equal."""

    def put(added: Tensor) -> Tensor:
        stream = before.pop()
        old = stream + added
        new = edit(old)
        return added.where(new == old, new - stream)

    return put
