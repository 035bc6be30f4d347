"""Models: loading Hugging Face directories offline as TransformerLens bridges, whose parameters are the model's.

The only file of the package that knows TransformerLens.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from degrade import fused

SMALL = 20_000_000  # parameters; above that a gradient hides the hooks
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def bridge(folder: str | Path) -> tuple[Any, Any]:
    """A TransformerBridge and its tokenizer from a local Hugging Face directory, in eval mode, without the network.

    Raises:
        FileNotFoundError: if the folder holds no `config.json`.
    """
    folder = _checked(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return wrapped(model, tokenizer, folder.name), tokenizer


def load(folder: str | Path, name: str | None = None) -> tuple[Any, Any]:
    """Any causal language model from a local Hugging Face directory, with float32 weights, in eval mode.

    Args:
        folder: With `config.json`, weights, and a tokenizer if there is one.
        name: What to call it; None: the folder's name.

    Returns:
        The model, as a bridge where TransformerLens knows its architecture (otherwise as it is, with a warning), and
        its tokenizer, or None.

    Raises:
        FileNotFoundError: if the folder holds no `config.json`.
        ValueError: if weights are missing or of another shape: they would be drawn at random.
    """
    folder = _checked(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        model, told = loaded
        known = any((folder / file).is_file() for file in TOKENIZERS)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if known else None
    _refuse_incomplete(folder, told)
    try:
        return wrapped(model, tokenizer, name or folder.name), tokenizer
    except ValueError as reason:
        if "Unsupported architecture" not in str(reason):
            raise
        kind = type(model).__name__
        warnings.warn(
            f"TransformerLens knows no {kind}: the model is sampled as it is; probes that need hooks cannot be asked",
            stacklevel=2,
        )
        return model.eval(), tokenizer


def wrapped(model: Any, tokenizer: Any = None, name: str = "model") -> Any:
    """A Hugging Face model as a TransformerBridge with the same parameters, in eval mode; it is changed in place.

    Raises:
        ValueError: if TransformerLens does not know its architecture.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    built = build_bridge_from_module(
        model, type(model).__name__, hf_config=model.config, tokenizer=tokenizer, model_name=name
    )
    return fused.join(built.eval())


def _checked(folder: str | Path) -> Path:
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; expected a Hugging Face model directory on disk")
    return folder


def _refuse_incomplete(folder: Path, told: dict[str, Any]) -> None:
    absent = sorted(map(str, [*told.get("missing_keys", ()), *told.get("mismatched_keys", ())]))
    if absent:
        shown = ", ".join(absent[:4]) + (", ..." if len(absent) > 4 else "")
        raise ValueError(
            f"{folder} lacks {len(absent)} weights of its own architecture, or has them in another shape ({shown});"
            " expected a whole checkpoint: they would be drawn at random"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers for some time: loading from disk takes no time worth one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def is_bridge(model: nn.Module) -> bool:
    """Whether a model is a TransformerBridge (asked by name: the library may not be imported)."""
    return any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)


def bare(model: nn.Module) -> nn.Module:
    """The network behind a bridge without the bridge's hooks, on the same parameter objects; any other model as it is.

    Hook points cost a fifth of a gradient on small models, and a chain uses none. Sampling the one moves the other.
    """
    original: Any = getattr(model, "original_model", None)
    if not is_bridge(model) or not hasattr(original, "save_pretrained"):
        return model
    if sum(parameter.numel() for parameter in model.parameters()) > SMALL:
        return model
    shared = {  # a bridge lists each parameter under several names
        name.replace("._original_component", ""): parameter
        for name, parameter in original.named_parameters(remove_duplicate=False)
    }
    with torch.random.fork_rng(devices=[]):
        twin = type(original)(original.config)
    places = [name for name, _ in twin.named_parameters(remove_duplicate=False)]
    if {id(shared.get(name)) for name in places} != {id(parameter) for parameter in model.parameters()}:
        return model
    for name in places:
        part, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(part), leaf, shared[name])
    return twin.to(next(model.parameters()).device).eval()


def untrained(model: Any, seed: int = 0) -> Any:
    """A fresh model of the same architecture, as its library draws one; None if the model is not from Hugging Face."""
    original = getattr(model, "original_model", model)
    if not hasattr(original, "save_pretrained"):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(original)(original.config)
    return fresh.to(next(model.parameters()).device).eval()


def refuse_unfaithful(model: nn.Module) -> None:
    """Refuse a bridge whose `parameters()` are not the parameters that its forward pass uses.

    As TransformerLens makes them, GPT-2 bridges list the fused and the split q/k/v weights, which share storage (noise
    would count twice), and GPT-NeoX bridges a fused weight that the forward pass no longer reads: `fused.join` mends
    both. A bridge in compatibility mode has folded weights, another coordinate system with another neighbourhood.

    Raises:
        ValueError: naming the modules at fault and the cure.
    """
    if not is_bridge(model):
        return
    if apart := fused.apart(model):
        raise ValueError(
            f"this bridge's parameter list is not the model's: {type(model.get_submodule(apart[0])).__name__} at"
            f" {apart[0]!r} lists fused and split q/k/v weights side by side, so noise would be counted twice or have"
            " no effect; call degrade.fused.join(bridge) once, or load the model with degrade.bridge(folder), which"
            " does, or pass the Hugging Face model itself (before wrapping)"
        )
    if getattr(model, "compatibility_mode", False):
        raise ValueError(
            "this bridge is in compatibility mode: its weights are folded, and a neighbourhood of folded weights is"
            " another one; sample the raw bridge, and fold a fresh copy for each draw if a probe needs it"
        )


def export(model: nn.Module, folder: Path) -> Path:
    """Write the model's present weights as a Hugging Face directory.

    Raises:
        FileExistsError: if the folder exists.
        TypeError: if the model did not come from Hugging Face.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; expected a new directory")
    whole: Any = model
    inner = getattr(whole, "original_model", whole)
    if not hasattr(inner, "save_pretrained"):
        raise TypeError(f"a {type(model).__name__} did not come from Hugging Face; save its state_dict() instead")
    if inner is whole:
        inner.save_pretrained(folder)
        return folder
    from transformers import PreTrainedTokenizerBase

    twin = type(inner)(inner.config)
    state = {name.replace("._original_component", ""): value for name, value in inner.state_dict().items()}
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    twin.save_pretrained(folder)
    tokenizer = getattr(whole, "tokenizer", None)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer.save_pretrained(folder)
    return folder
