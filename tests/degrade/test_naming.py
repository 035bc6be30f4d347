"""Models by name: every form, the same bits from the hub's cache and from a copy, and one sentence for each mistake."""

import shutil
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from degrade.models import is_bridge
from degrade.naming import form, open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = torch.arange(12).reshape(2, 6)
MODULE = """
import torch
from torch import nn


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def pair():
    return linear(), "a tokenizer"


def number():
    return 7


def broken():
    raise RuntimeError("no such file")


def needy(path):
    return nn.Linear(path, 1)
"""


def tiny(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=16, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub, as the hub's library lays it out: main and a revision of one small model."""
    place = tmp_path / "hub" / "models--org--tiny"
    (place / "refs").mkdir(parents=True)
    for revision, commit, seed in (("main", COMMIT, 0), ("step1000", COMMIT[::-1], 1)):
        (place / "refs" / revision).write_text(commit)
        tiny(seed).save_pretrained(place / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "naming_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "naming_models"
    sys.modules.pop("naming_models", None)


def test_the_four_forms(tmp_path):
    (tmp_path / "mine").mkdir()
    names = ["mixture", str(tmp_path / "mine"), "gpt2", "EleutherAI/pythia-70m@step1000", "a.b:c"]
    assert [form(name) for name in names] == ["organism", "folder", "hub", "hub", "function"]


@pytest.mark.parametrize("name", ["org/tiny", "org/tiny@step1000", f"org/tiny@{COMMIT}"])
def test_a_hub_model_and_a_local_copy_give_the_same_bits(cache, tmp_path, name):
    revision = name.partition("@")[2] or "main"
    known = cache / "refs" / revision
    commit = known.read_text() if known.is_file() else revision
    shutil.copytree(cache / "snapshots" / commit, tmp_path / "copy")
    (hub, _), (local, _) = open_model(name), open_model(str(tmp_path / "copy"))
    assert is_bridge(hub) and is_bridge(local)
    mine, theirs = dict(hub.named_parameters()), dict(local.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    with torch.no_grad():
        assert torch.equal(hub(TOKENS), local(TOKENS))


def test_revisions_are_other_models(cache):
    with torch.no_grad():
        one, two = (open_model(name)[0](TOKENS) for name in ("org/tiny", "org/tiny@step1000"))
    assert not torch.allclose(one, two)


def test_a_model_without_a_tokenizer_has_none_made_up(cache):
    assert open_model("org/tiny")[1] is None


def test_a_function_of_the_present_directory(module):
    model, tokenizer = open_model(f"{module}:linear")
    assert isinstance(model, torch.nn.Linear) and not model.training and tokenizer is None
    assert open_model(f"{module}:pair")[1] == "a tokenizer"


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("linaer", ValueError, "has no function 'linaer'; it has linear"),
        ("number", ValueError, r"number\(\) returned a int; expected an nn.Module"),
        ("broken", ValueError, "broken.*failed with RuntimeError.*no such file"),
        ("needy", ValueError, "needy.*failed with TypeError.*missing 1 required"),
    ],
)
def test_functions_that_give_no_model(module, function, error, said):
    with pytest.raises(error, match=said):
        open_model(f"{module}:{function}")


def test_a_module_that_does_not_import():
    with pytest.raises(
        ImportError, match="module 'no_such_package.models' does not import: ModuleNotFoundError"
    ) as told:
        open_model("no_such_package.models:make")
    assert isinstance(told.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("name", ["./typo", "/no/such/model", "runs/of/mine"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match=f"model {name!r}: there is no such directory; expected an organism"):
        open_model(name)


def test_what_is_no_name():
    with pytest.raises(ValueError, match="model 'two words' is no name of a model; expected an organism.*hub name"):
        open_model("two words")


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config.json; expected a Hugging Face model directory"):
        open_model(str(tmp_path))


def test_a_checkpoint_that_lacks_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of its own architecture.*model.norm.weight.*whole checkpoint"
    ):
        open_model(str(tmp_path / "model"))


def test_offline_and_missing_is_an_error_at_once(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    for name in ("org/other", "org/tiny@step2000", "gpt5"):
        with pytest.raises(
            FileNotFoundError, match="no organism .*mixture.*not in the hub's cache.*HF_HUB_OFFLINE is set"
        ):
            open_model(name)
    assert time.monotonic() - began < 1


def test_a_hub_that_does_not_answer_is_asked_once():
    """In a process of its own, because the hub's library reads where the hub is when it is imported."""
    import os
    import subprocess

    code = """
import time, huggingface_hub
from degrade.naming import open_model
began = time.monotonic()
try:
    open_model("org/other")
except FileNotFoundError as error:
    print(round(time.monotonic() - began, 1), error)
"""
    given = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    told = subprocess.run([sys.executable, "-c", code], env=os.environ | given, capture_output=True, text=True)
    seconds, _, said = told.stdout.partition(" ")
    assert "127.0.0.1:9 does not give it" in said, told.stderr
    assert float(seconds) < 10  # its library would try for 23 s
