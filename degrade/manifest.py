"""The manifest: everything that made a ladder, keyed by content."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from degrade.chain import Scene
from degrade.data import Examples
from degrade.fingerprint import code_key, feed, key_of, source_key
from degrade.request import Request

FORMAT = 2
PLACES = {"workers", "engine", "address", "gpus", "log"}  # no result depends on these
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
        "versions": versions(),
    }


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a stored ladder or a finished run.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read, or is of a newer format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no manifest.json; expected a stored ladder or a finished run")
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as fault:
        raise ValueError(
            f"{path} cannot be read ({fault}); expected the manifest that the run wrote: take it from a copy, or run"
            " again"
        ) from fault
    if content.get("format", FORMAT) > FORMAT:
        raise ValueError(f"{folder} has format {content['format']}; this version reads up to {FORMAT}: upgrade")
    return content


def inputs(scene: Scene, request: Request) -> dict[str, Any]:
    """Everything that a ladder's results depend on, by name: what a run that was stopped must find again.

    The losses at w* stand for what no source shows: values that a loss takes from elsewhere, and the processor.
    """
    potential, held = scene.potential, scene.heldout
    settings = {f"setting {name}": value for name, value in request.model_dump(exclude=PLACES).items()}
    return {
        "the model's weights": scene.model_key,
        "the model's code": key_of([source_key(kind) for kind in _kinds(potential.model)]),
        "the sampled parameters": key_of((potential.selection.names, potential.selection.masks)),
        "the data": data_key(potential.data),
        "the held-out data": None if held is None else data_key(held.data),
        "the loss": source_key(potential.loss),
        "the observers": [source_key(observer) for observer in scene.observe],
        "the losses at w*": key_of([potential.baseline, potential.precision, scene.evaluation.baseline]),
        "the device": str(potential.device),
        **settings,
        **{f"version of {name}": found for name, found in versions().items()},
        "the code of degrade": code_key("degrade"),
    }


def _kinds(model: nn.Module) -> list[type[nn.Module]]:
    """The classes that a model is made of, those of libraries with a version aside."""
    kinds = {type(part) for part in model.modules()}
    own = [kind for kind in kinds if kind.__module__.split(".")[0] not in ("torch", "transformers", "transformer_lens")]
    return sorted(own, key=lambda kind: kind.__qualname__)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def weights_key(model: nn.Module) -> str:
    """SHA-256 over the sorted names, types, shapes and bytes of a model's parameters and buffers."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    digest = hashlib.sha256()
    for name in sorted(tensors):
        feed(digest, name, tensors[name])
    return digest.hexdigest()


def data_key(data: Examples) -> str:
    """SHA-256 over the examples, as they are batched."""
    digest = hashlib.sha256()
    for index in data.chunks(4096):
        batch = data.batch(index)
        for name, part in batch.items() if isinstance(batch, Mapping) else enumerate(_tuple(batch)):
            if isinstance(part, Tensor):
                feed(digest, str(name), part)
            else:
                digest.update(repr(part).encode())
    return digest.hexdigest()


def _tuple(batch: Any) -> tuple:
    return batch if isinstance(batch, tuple) else (batch,)
