"""The shipped models: what they were trained on, and that they reach what their card says."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from studies.organisms.mixture import mixture
from studies.organisms.mixture.references import (
    RECORDED,
    RECORDED_SEED,
    accuracies,
    gap,
    sample_nats,
    token_nats,
)
from studies.organisms.mixture.train import RECIPES, build, rate_at, tokenizer, train
from studies.organisms.mixture.vocabulary import VOCABULARY


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(mixture.folder).eval()


@pytest.fixture(scope="module")
def larger():
    return AutoModelForCausalLM.from_pretrained(mixture.larger).eval()


def test_importing_an_organism_is_cheap():
    code = "import sys, studies.organisms.mixture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_directory_is_small_enough():
    files = [file for folder in (mixture.folder, mixture.larger) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 4_000_000


@pytest.mark.parametrize("folder", [mixture.folder, mixture.larger])
def test_models_were_trained_on_this_corpus(folder):
    assert json.loads((folder / "recipe.json").read_text())["corpus sha256"] == mixture.corpus.fingerprint()


def test_architecture(model):
    config = model.config
    assert config.model_type == "llama" and config.num_key_value_heads == config.num_attention_heads
    assert not config.tie_word_embeddings
    assert config.vocab_size == len(VOCABULARY) not in (config.hidden_size, config.intermediate_size)
    assert 100_000 <= model.num_parameters() <= 500_000


def test_tokenizer_reads_the_vocabulary():
    words = AutoTokenizer.from_pretrained(mixture.folder)
    assert words.convert_tokens_to_ids(list(VOCABULARY)) == list(range(len(VOCABULARY)))
    assert words(" ".join(VOCABULARY))["input_ids"] == list(range(len(VOCABULARY)))
    assert words("nonsense")["input_ids"] == [words.unk_token_id] and words.pad_token == "<pad>"


def test_shipped_model_meets_its_targets(model):
    found = accuracies(model, mixture.corpus, n=300, seed=5)
    assert found["induction"] >= 0.95 and found["retrieval"] >= 0.95
    assert found["facts frequent"] >= 0.99 and found["addition held out"] >= 0.9
    assert min(found[f"canary {copies}"] for copies in (16, 32, 64)) >= 0.9


def test_exact_gap_lies_on_the_dial(model):
    mean, error = mixture.exact_gap(model, n=1500, seed=5)
    assert mean - 2 * error > 0.06 and mean + 2 * error < 0.2


def test_exact_gap_has_less_noise_than_the_loss(model):
    sample = mixture.corpus.heldout(500, seed=6)
    plain = sample_nats(model, sample)
    mean, error = mixture.exact_gap(model, n=500, seed=6)
    assert error < plain.std(ddof=1) / len(plain) ** 0.5 / 2
    assert mean == pytest.approx(plain.mean() - sample.surprisal.mean(), abs=1e-9)


def test_larger_model_closes_a_third_of_the_gap(model):
    mean, error = mixture.reference_gap(model)
    exact, _ = gap(model, mixture.corpus.heldout(RECORDED, RECORDED_SEED))
    assert mean - 2 * error > exact / 3


def test_recorded_losses_are_the_larger_models(larger):
    with np.load(mixture.larger / "heldout.npz") as file:
        nats, seed = file["nats"], int(file["seed"])
    sample = mixture.corpus.heldout(len(nats), seed)
    np.testing.assert_allclose(sample_nats(larger, sample.take(np.arange(200))), nats[:200], atol=1e-4)


def test_references_are_in_order(model):
    marks = mixture.references()
    assert marks["entropy"] == pytest.approx(mixture.corpus.mean_entropy(), abs=1e-5)
    names = ["entropy", "larger", "model", "n-gram 3", "n-gram 2", "n-gram 1", "untrained"]
    assert sorted(marks, key=lambda name: marks[name]) == names
    measured, _ = gap(model, mixture.corpus.heldout(RECORDED, RECORDED_SEED))
    assert marks["model"] - marks["entropy"] == pytest.approx(measured, abs=1e-4)


def test_token_nats_is_the_cross_entropy(model):
    tokens = mixture.corpus.heldout(3, seed=1).tokens
    with torch.no_grad():
        logs = model(tokens).logits.log_softmax(-1)
        nats = token_nats(model, tokens)
    assert nats[1, 4].item() == pytest.approx(-logs[1, 4, tokens[1, 5]].item(), abs=1e-5)


def test_building_a_model_is_deterministic_and_draws_no_global_number():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (build(RECIPES["small"], len(VOCABULARY)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("fresh", [0, 200])
def test_training_is_deterministic_and_writes_a_directory(tmp_path, fresh):
    recipe = replace(RECIPES["small"], width=16, hidden=8, steps=3, fresh=fresh)
    first = train(recipe, mixture.corpus, tmp_path / "a", every=2)
    train(recipe, mixture.corpus, tmp_path / "b", every=3)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    log = pd.read_csv(tmp_path / "a" / "log.csv")
    assert log["step"].tolist() == [2, 3] and {"seconds", "excess all", "retrieval"} <= set(log.columns)
    assert json.loads((tmp_path / "a" / "recipe.json").read_text())["fresh"] == fresh


def test_rate_rises_then_falls():
    recipe = RECIPES["small"]
    assert rate_at(recipe.warmup, recipe) == pytest.approx(recipe.rate)
    assert rate_at(0, recipe) < rate_at(10, recipe) and rate_at(recipe.steps, recipe) == pytest.approx(
        recipe.rate / 100
    )
    assert tokenizer().unk_token_id != tokenizer().pad_token_id


def test_loads_through_the_bridge(model):
    bridge, words = mixture.load()
    tokens = mixture.corpus.heldout(4, seed=1).tokens
    with torch.no_grad():
        assert (bridge(tokens) - model(tokens).logits).abs().max() < 1e-4
    assert len(words) == len(VOCABULARY)
