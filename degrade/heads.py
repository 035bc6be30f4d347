"""Attention heads by name: `blocks.1.attn.head.3` is what head 3 of the second block owns, as masks of parameters.

A head owns its rows of the query projection, its columns of the output projection, and the key and value rows it reads.
Under grouped-query attention several heads read the same key and value rows: they belong to each of these heads, and
`blocks.1.attn.group.0` names a group as a whole (its keys and values, with all heads that read them). So heads
partition queries and outputs, and groups partition everything. What no head owns alone (the output bias, query and key
norms) is left out. The size of a head is that of the tensors, which need not be d_model / n_heads.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NAME = re.compile(r"^(?P<path>.+)\.(?P<kind>head|group)\.(?P<number>\d+)$")
BLOCK = re.compile(r"^blocks\.(\d+)\.attn$")

ROLES = {
    "query": ("q_proj", "q", "query", "q_lin"),
    "key": ("k_proj", "k", "key", "k_lin"),
    "value": ("v_proj", "v", "value", "v_lin"),
    "out": ("o_proj", "o", "out_proj", "out_lin", "c_proj", "dense"),
    "stacked": ("c_attn", "qkv_proj", "in_proj"),  # all queries, then all keys, then all values
    "interleaved": ("query_key_value",),  # query, key and value of head 0, of head 1, ...
}
SIZES = ("head_dim", "head_size", "d_head")
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


class Part(NamedTuple):
    """A run of `stride` rows (along `axis`, from `offset`) for each head, or for each group where it is `shared`."""

    name: str
    axis: int
    offset: int
    stride: int
    shared: bool


class Layout(NamedTuple):
    """How an attention module lays out its heads: how many heads, how many key/value groups, and where they lie."""

    heads: int
    groups: int
    parts: list[Part]


def masks(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The parameters of one head or group: {parameter name: boolean mask}.

    Args:
        model: a bridge, a Hugging Face model, or any module with separate or fused projections of the usual names.
        name: `PATH.head.N` or `PATH.group.N`, PATH an attention module; `blocks.L.attn` always means the L-th one.

    Raises:
        ValueError: if there is no such module or head, or the tensors cannot be cut into heads.

    >>> from torch import nn
    >>> masks(nn.Sequential(nn.MultiheadAttention(8, 4)), "0.head.3")["0.out_proj.weight"][0].tolist()
    [False, False, False, False, False, False, True, True]
    """
    path, kind, number = _parse(name)
    module = _module(model, path)
    layout = _layout(model, module, path)
    limit = layout.heads if kind == "head" else layout.groups
    if number >= limit:
        raise ValueError(f"{name!r}: {path!r} has {limit} {kind}s; expected a number from 0 to {limit - 1}")
    owned = [number] if kind == "head" else [h for h in range(layout.heads) if _group(layout, h) == number]
    shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for part in layout.parts:
        mask = found.setdefault(part.name, torch.zeros(shapes[part.name], dtype=torch.bool))
        for head in owned:
            start = part.offset + part.stride * (_group(layout, head) if part.shared else head)
            mask.narrow(part.axis, start, part.stride).fill_(True)
    return found


def names(model: nn.Module) -> list[str]:
    """Names of all attention heads of a model, `blocks.L.attn.head.N`, in order."""
    found = []
    for layer, (path, module) in enumerate(_attentions(model)):
        found += [f"blocks.{layer}.attn.head.{head}" for head in range(_layout(model, module, path).heads)]
    return found


def expand(model: nn.Module, named: Mapping[str, Any], only: Any) -> Any:
    """Replace head names in `only` by their masks, and a list of names or patterns by the union of their choices."""
    if isinstance(only, str):
        is_head = NAME.match(only) and not any(re.search(only, name) for name in named)
        return masks(model, only) if is_head else only
    if isinstance(only, Sequence):
        return _union(model, named, only)
    return only


def _union(model: nn.Module, named: Mapping[str, Any], items: Sequence[str]) -> dict[str, Tensor | None]:
    chosen: dict[str, Tensor | None] = {}
    for item in items:
        part = expand(model, named, item)
        matched = {name: None for name in named if re.search(part, name)} if isinstance(part, str) else part
        if not matched:
            raise ValueError(f"nothing matches {item!r} of `only`; the model's parameters are: {', '.join(named)}")
        for name, mask in matched.items():
            known = chosen.get(name, mask)
            chosen[name] = None if mask is None or known is None else known | mask
    return chosen


def _parse(name: str) -> tuple[str, str, int]:
    match = NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} names no head; expected PATH.head.N or PATH.group.N, as blocks.1.attn.head.3")
    return match["path"], match["kind"], int(match["number"])


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = list(_attentions(model))
        block = BLOCK.match(path)
        if block and int(block[1]) < len(known):
            return known[int(block[1])][1]
        shown = ", ".join(name for name, _ in known[:8]) or "none"
        raise ValueError(
            f"the model has no module {path!r}; its attention modules are: {shown} (or blocks.0.attn to"
            f" blocks.{len(known) - 1}.attn)"
        ) from None


def _attentions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold query, key, value and output projections; of nested wrappers around one, the outermost."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        roles = _roles(module)
        first = next((id(p) for p, _ in roles.get("out", {}).values()), None)
        if first is not None and first not in seen and (roles.keys() & {"query", "stacked", "interleaved"}):
            seen.add(first)
            yield path, module


def _roles(module: nn.Module) -> dict[str, dict[str, tuple[nn.Parameter, nn.Module]]]:
    """Projections by role: {role: {"weight" or "bias": (parameter, the module that holds it)}}."""
    found: dict[str, dict[str, tuple[nn.Parameter, nn.Module]]] = {}
    for name, parameter in module.named_parameters():
        path = name.replace("_original_component.", "").replace("in_proj_", "in_proj.")
        stem, _, leaf = path.rpartition(".")
        for role, stems in ROLES.items():
            if stem in stems:
                owner = module.get_submodule(name.rpartition(".")[0])
                found.setdefault(role, {})[leaf] = (parameter, owner)
    return found


def _layout(model: nn.Module, module: nn.Module, path: str) -> Layout:
    roles = _roles(module)
    if "out" not in roles or not (
        {"query", "key", "value"} <= roles.keys() or {"stacked", "interleaved"} & roles.keys()
    ):
        raise ValueError(
            f"{path!r} holds {sorted(name for name, _ in module.named_parameters()) or 'no parameters'}; expected an"
            " attention module with query, key, value and output projections of the usual names: give a mask instead"
        )
    out, owner = roles["out"]["weight"]
    width = out.shape[_inward(owner)]
    size = _head_size(module, width, path)
    local = {id(parameter): name for name, parameter in model.named_parameters()}
    layout = Layout(width // size, 0, [Part(local[id(out)], _inward(owner), 0, size, False)])
    cut = _separate if "query" in roles else _stacked if "stacked" in roles else _interleaved
    groups, parts = cut(roles, layout.heads, size, local, path)
    return layout._replace(groups=groups, parts=[*parts, *layout.parts])


def _separate(roles: Any, heads: int, size: int, local: dict[int, str], path: str) -> tuple[int, list[Part]]:
    parts, rows = [], {}
    for role in ("query", "key", "value"):
        for parameter, owner in roles[role].values():
            axis = _outward(owner) if parameter.ndim > 1 else 0
            rows[role] = parameter.shape[axis]
            parts.append(Part(local[id(parameter)], axis, 0, size, role != "query"))
    groups = rows["key"] // size
    fits = rows["query"] == heads * size and rows["key"] == rows["value"] == groups * size
    if not fits or heads % groups:
        raise ValueError(
            f"{path!r} has projections of {rows} rows, which {heads} heads of size {size} cannot be cut from"
        )
    return groups, parts


def _stacked(roles: Any, heads: int, size: int, local: dict[int, str], path: str) -> tuple[int, list[Part]]:
    parts, groups = [], 0
    for parameter, owner in roles["stacked"].values():
        axis = _outward(owner) if parameter.ndim > 1 else 0
        rest = parameter.shape[axis] - heads * size
        groups = rest // (2 * size)
        if rest != 2 * groups * size or not groups or heads % groups:
            raise ValueError(
                f"{path!r} stacks {parameter.shape[axis]} rows, not {heads} heads of size {size} and their keys"
            )
        name = local[id(parameter)]
        for offset, shared in ((0, False), (heads * size, True), (heads * size + rest // 2, True)):
            parts.append(Part(name, axis, offset, size, shared))
    return groups, parts


def _interleaved(roles: Any, heads: int, size: int, local: dict[int, str], path: str) -> tuple[int, list[Part]]:
    parts = []
    for parameter, owner in roles["interleaved"].values():
        axis = _outward(owner) if parameter.ndim > 1 else 0
        if parameter.shape[axis] != 3 * heads * size:
            raise ValueError(
                f"{path!r} interleaves {parameter.shape[axis]} rows, not 3 × {heads} heads × size {size}: give masks"
            )
        parts.append(Part(local[id(parameter)], axis, 0, 3 * size, False))
    return heads, parts


def _group(layout: Layout, head: int) -> int:
    return head * layout.groups // layout.heads


def _outward(owner: nn.Module) -> int:
    """The axis of output features: GPT-2's Conv1D keeps its weight transposed."""
    return 1 if type(owner).__name__ == "Conv1D" else 0


def _inward(owner: nn.Module) -> int:
    return 1 - _outward(owner)


def _head_size(module: nn.Module, width: int, path: str) -> int:
    """From the module itself first: models may mix layers with heads of different sizes under one config."""
    inner = getattr(module, "_original_component", None) or module
    places = [
        place for place in (inner, module, getattr(inner, "config", None), getattr(module, "config", None)) if place
    ]
    for place in places:
        for names_, is_size in ((SIZES, True), (COUNTS, False)):
            for value in (getattr(place, name, None) for name in names_):
                if isinstance(value, int) and value > 0 and width % value == 0:
                    return value if is_size else width // value
    raise ValueError(
        f"{path!r} says neither how many heads it has nor how large they are; give masks instead of a name"
    )
