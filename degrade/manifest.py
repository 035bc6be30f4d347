"""The manifest: everything that made a ladder, keyed by content."""

import hashlib
import inspect
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from degrade.chain import Scene
from degrade.data import Examples
from degrade.request import Request

FORMAT = 1
PACKAGES = ("natural-degradation", "torch", "transformer-lens", "transformers", "numpy", "pandas")


def describe(scene: Scene, request: Request, ceiling: float, unit: str) -> dict[str, Any]:
    """Settings as given, what was found, and SHA-256 keys of model, data and loss."""
    potential = scene.potential
    return {
        "format": FORMAT,
        "settings": request.model_dump(),
        "unit": unit,
        "n": float(potential.unit * len(potential.data)),
        "examples": len(potential.data),
        "evaluation": None if scene.evaluation.index is None else scene.evaluation.index.tolist(),
        "counts": scene.evaluation.count.tolist(),
        "loss_at_w*": float(potential.baseline.double().sum() / (potential.unit * len(potential.data))),
        "reachable_rise": ceiling,
        "sampled": potential.selection.count,
        "parameters": list(potential.selection.names),
        "scales": [a**-0.5 for a in potential.precision],
        "keys": {
            "model": scene.model_key,
            "data": data_key(potential.data),
            "loss": source_key(potential.loss),
        },
        "observers": [repr(observer) for observer in scene.observe],
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def weights_key(model: nn.Module) -> str:
    """SHA-256 over the sorted names, types, shapes and bytes of a model's parameters and buffers."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _feed(digest, name, tensors[name])
    return digest.hexdigest()


def data_key(data: Examples) -> str:
    """SHA-256 over the examples, as they are batched."""
    digest = hashlib.sha256()
    for index in data.chunks(4096):
        batch = data.batch(index)
        for name, part in batch.items() if isinstance(batch, Mapping) else enumerate(_tuple(batch)):
            if isinstance(part, Tensor):
                _feed(digest, str(name), part)
            else:
                digest.update(repr(part).encode())
    return digest.hexdigest()


def source_key(function: Callable) -> str:
    """A callable by its source where that can be read, else by its repr."""
    try:
        text = inspect.getsource(function)
    except (TypeError, OSError):
        text = repr(function)
    return hashlib.sha256(text.encode()).hexdigest()


def _tuple(batch: Any) -> tuple:
    return batch if isinstance(batch, tuple) else (batch,)


def _feed(digest: Any, name: str, tensor: Tensor) -> None:
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(np.ascontiguousarray(plain.reshape(-1).view(torch.uint8).numpy()).tobytes())
