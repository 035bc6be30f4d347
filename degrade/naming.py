"""Naming a model: an organism, a Hugging Face directory, a name on the hub, or a function that makes one.

    mixture                            an organism (degrade list organisms)
    ./checkpoints/step-1000            a directory with config.json, weights and, for text, a tokenizer
    EleutherAI/pythia-70m@step1000     a name on the Hugging Face hub, with an optional revision
    mypackage.models:classifier        a function of a module that returns an nn.Module, or one and its tokenizer

What the cache of the hub holds is used as it is, and the hub not asked.
"""

import importlib
import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from torch import nn

from degrade import plugins
from degrade.compute import here

Form = Literal["organism", "folder", "function", "hub"]
PATIENCE = 5.0  # seconds that the hub may take to answer whether it has a model
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
HUB = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?(@[\w][\w./-]*)?")
FORMS = (
    "an organism (degrade list organisms), a Hugging Face directory, a hub name with an optional revision"
    " (EleutherAI/pythia-70m@step1000), or package.module:function"
)
DESCRIBING = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = ("*.safetensors", "*.bin")


def form(name: str) -> Form:
    """What a name is the name of.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: if it is none of the four.

    >>> form("EleutherAI/pythia-70m@step1000"), form("mypackage.models:classifier")
    ('hub', 'function')
    """
    if name in plugins.installed("organisms"):
        return "organism"
    if Path(name).expanduser().is_dir():
        return "folder"
    if FUNCTION.fullmatch(name):
        return "function"
    if is_path(name):
        raise FileNotFoundError(f"model {name!r}: there is no such directory; expected {FORMS}")
    if HUB.fullmatch(name):
        return "hub"
    raise ValueError(f"model {name!r} is no name of a model; expected {FORMS}")


def is_path(name: str) -> bool:
    """Whether a name can only be a path.

    >>> is_path("./gpt2"), is_path("runs/a/model"), is_path("org/model@v1/a")
    (True, True, False)
    """
    return name.startswith((".", "/", "~")) or "\\" in name or name.partition("@")[0].count("/") > 1


def open_model(name: str) -> tuple[Any, Any]:
    """A model by its name, in eval mode, and its tokenizer, or None.

    A directory and a model of the hub come as bridges where TransformerLens knows the architecture. The hub's are
    loaded from the directory in its cache, so that a copy of that directory gives the same bits. It lies on the device
    that was chosen for the block (`degrade.compute.computing`), if one was.

    Raises:
        ValueError: if it is no name of a model, or what the name gives is no model.
        OSError: if it is not there.
        ImportError: if the module of a function cannot be imported.
    """
    model, tokenizer = _opened(name, form(name))
    if (device := here().device) is not None:
        model.to(device)
    return model, tokenizer


def _opened(name: str, kind: Form) -> tuple[Any, Any]:
    if kind == "function":
        return made(name)
    from degrade.models import load

    if kind == "organism":
        return plugins.find("organisms", name).load()
    return load(Path(name).expanduser() if kind == "folder" else snapshot(name), name)


def made(name: str) -> tuple[nn.Module, Any]:
    """What `package.module:function` returns when it is called without arguments: a model, or one and its tokenizer.

    Modules of the present directory are found too.

    Raises:
        ImportError: if there is no such module, or it does not import; the cause is chained.
        ValueError: if it has no such function, the function fails, or returns something else.
    """
    place, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(place)
    except Exception as cause:
        raise ImportError(f"model {name!r}: module {place!r} does not import: {cause!r}") from cause
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    function = getattr(module, attribute, None)
    if not callable(function):
        near = ", ".join(get_close_matches(attribute, known, 5, 0.3) or known[:5]) or "none"
        raise ValueError(f"model {name!r}: module {place!r} has no function {attribute!r}; it has {near}")
    try:
        result = function()
    except Exception as cause:
        raise ValueError(f"model {name!r}: {attribute}() failed with {cause!r}; expected an nn.Module of it") from cause
    model, tokenizer = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {name!r}: {attribute}() returned a {type(result).__name__}; expected an nn.Module, or a pair of"
            " one and its tokenizer"
        )
    return model.eval(), tokenizer


def snapshot(name: str) -> Path:
    """The directory of a hub model in the hub's cache; it is downloaded if it is not there.

    Raises:
        FileNotFoundError: at once, if it is not in the cache and the hub cannot be asked or does not have it.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        found = snapshot_download(
            repo, revision=revision or None, local_files_only=True, allow_patterns=list(DESCRIBING)
        )
    except FileNotFoundError:
        return _downloaded(name, repo, revision or None)
    return Path(found)


def _downloaded(name: str, repo: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(_absent(name, "and the hub is not asked, because HF_HUB_OFFLINE is set: unset it"))
    try:
        told = HfApi().model_info(repo, revision=revision, timeout=PATIENCE)
    except Exception as reason:
        said = str(reason).strip().split("\n")[0]
        why = f"and {constants.ENDPOINT} does not give it ({said}): check name and connection"
        raise FileNotFoundError(_absent(name, why)) from reason
    files = [one.rfilename for one in told.siblings or []]
    kind = WEIGHTS[0] if any(file.endswith(".safetensors") for file in files) else WEIGHTS[1]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=[*DESCRIBING, kind]))


def _absent(name: str, why: str) -> str:
    from huggingface_hub import constants

    organisms = ", ".join(plugins.installed("organisms"))
    return (
        f"model {name!r} is no organism (those are {organisms}), no directory, and not in the hub's cache"
        f" ({constants.HF_HUB_CACHE}), {why}, or give a directory with the model"
    )
