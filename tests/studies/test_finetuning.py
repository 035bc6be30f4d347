"""Tasks, copies and the run itself, small."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

from degrade import next_token_loss
from studies import finetuning, finetuning_training
from studies.finetuning_ladders import MIXED, TASK_ONLY, Losses
from studies.finetuning_tasks import joined, mixture, open_task, scored, size, take
from studies.finetuning_training import Variant, descend, finetune, tuned
from studies.organisms.induction import induction
from tests.probes import toys


def tokens(n=64, seed=0):
    return toys.Corpus().of_kind("cycle", n, seed).tokens


def labelled(examples):
    labels = torch.full_like(examples, -100)
    labels[:, -2:] = examples[:, -2:]
    return {"input_ids": examples, "labels": labels}


@pytest.mark.parametrize("form", [lambda x: x, labelled])
def test_the_mixture_holds_equally_many_scored_tokens_of_each(form):
    base = form(tokens(300))
    both = mixture(base, form(tokens(200, 1)), 150, seed=0)
    assert size(both) == 300 and scored(both) == 2 * 150 * (scored(base) // 300)
    assert torch.equal(_tokens(mixture(base, base, 50, 3)), _tokens(mixture(base, base, 50, 3)))


def _tokens(examples):
    return examples["input_ids"] if isinstance(examples, dict) else examples


def test_a_task_with_fewer_scored_tokens_gets_more_examples():
    base, task = labelled(tokens(300)), labelled(tokens(300, 1))
    task["labels"][:, -2] = -100
    both = mixture(base, task, 200, seed=0)
    assert scored(both) == 400 and size(both) == 300


def test_examples_are_taken_and_joined_in_order():
    part = take(labelled(tokens(10)), np.array([3, 1]))
    assert torch.equal(joined(part, part)["input_ids"], tokens(10)[[3, 1, 3, 1]])


def test_tasks_are_fresh_text_of_the_organism_and_unknown_ones_are_refused():
    task = open_task(induction, "repeat@1", 20, 10, seed=0)
    again = open_task(induction, "repeat@1", 20, 10, seed=0)
    assert torch.equal(task.training, again.training) and size(task.heldout) == 10
    assert not torch.equal(task.training[:10], task.heldout)
    chain = open_task(induction, None, 20, 10, seed=0)
    assert chain.name == "chain" and chain.training.shape == (20, 48)
    assert (chain.training[:, 0] == induction.corpus.training().tokens[0, 0]).all()
    assert torch.equal(chain.others, chain.base)
    with pytest.raises(ValueError, match="unknown task 'poems'.*chain, repeat, repeat@1"):
        open_task(induction, "poems", 20, 10, seed=0)


def test_finetuning_learns_the_task_and_is_deterministic():
    data, variant = tokens(256), Variant("full", "task", "full", 60, 3e-3, batch=16)
    paid = Losses({"task": tokens(64, 9)}, next_token_loss)
    before = paid(toys.llama()).value[0]
    one, two = (tuned(toys.llama(), data, variant, seed=4) for _ in range(2))
    assert paid(one).value[0] < 0.7 * before
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra `finetuning`")
def test_adapters_are_merged_into_the_matrices_of_the_layers_and_nothing_else_moves():
    variant = Variant("lora", "task", "lora", 20, 1e-2, batch=8, rank=2)
    own, changed = toys.llama(), tuned(toys.llama(), tokens(), variant, seed=0)
    names = [name for name, _ in own.named_parameters()]
    assert [name for name, _ in changed.named_parameters()] == names  # adapters are gone
    state = torch.random.get_rng_state()
    for name, w in changed.named_parameters():
        step = w.detach() - own.get_parameter(name)
        inside = any(part in name for part in finetuning_training.MODULES)
        assert bool(step.abs().max() > 0) == inside, name
        assert not inside or torch.linalg.matrix_rank(step, rtol=1e-4) <= 2
    tuned(toys.llama(), tokens(), variant, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_peft_adapters_are_left_out_and_said(monkeypatch):
    monkeypatch.setattr(finetuning_training, "find_spec", lambda name: None)
    assert {one.method for one in finetuning_training.possible(finetuning_training.VARIANTS)} == {"full"}
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"natural-degradation\[finetuning\]"):
        tuned(toys.llama(), tokens(), Variant("lora", "task", "lora", 2, 1e-2), seed=0)


def test_gradients_are_not_left_behind():
    model = toys.llama()
    descend(model, tokens(), Variant("full", "task", "full", 2, 1e-3), seed=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_the_run_writes_all_and_is_read_again(tmp_path, monkeypatch):
    """On the induction organism; a second run reads the stored copies and ladders."""
    monkeypatch.setattr(finetuning, "QUICK", finetuning.Size((0.5, 1.0), 2, 1, 1, 32, 32, 40, 16))
    monkeypatch.setattr(finetuning, "QUICK_ROWS", 128)
    settings = {"model": "induction", "quick": True, "probes": ["kinds:n=8"], "workers": 1, "progress": False,
                "controls": True}  # fmt: skip
    table = finetuning.run(**settings, out=tmp_path / "one")
    assert set(table.potential) == {MIXED, TASK_ONLY}
    assert set(table.model) == {"base", "control", "full 300"}
    assert {path.stem for path in (tmp_path / "one" / "figures").iterdir()} == {"penalties", "curves", "losses"}
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["left out"] == []
    assert manifest["study"] == "finetuning" and manifest["asked"]["task"] == "chain"
    again = finetuning.run(**settings, ladder=tmp_path / "one")
    pd.testing.assert_frame_equal(again, table)
    first = (tmp_path / "one" / "figures" / "penalties.png").read_bytes()
    finetuning.report(tmp_path / "one")
    assert (tmp_path / "one" / "figures" / "penalties.png").read_bytes() == first


def test_a_copy_is_an_ordinary_directory(tmp_path):
    folder = finetune(induction, take(induction.corpus.training().tokens, np.arange(64)),
                      Variant("two steps", "base", "full", 2, 1e-3, batch=4), tmp_path / "copy")  # fmt: skip
    assert {"config.json", "model.safetensors", "tokenizer.json", "variant.json"} <= {p.name for p in folder.iterdir()}
