"""IOI: prompts under two tokenizers, planted attention, direct effects and knock-outs against their definitions."""

import numpy as np
import pytest
import torch

from probes import Subject
from probes.hooks import hooked, record
from probes.ioi import IOI, ROLES
from probes.predictions import logits_at
from probes.templates import NAMES, TEMPLATES, from_pairs, prompts, single_tokens
from studies.organisms.names import names
from tests.probes import toys

PROBE = IOI(toys.names(6))


def word_level():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = " ".join(TEMPLATES) + " " + " ".join(NAMES[:8])
    for slot in ("A", "B", "S", "place", "object"):
        text = text.replace("{" + slot + "}", " ")
    from probes.templates import OBJECTS, PLACES

    pieces = pre_tokenizers.Whitespace().pre_tokenize_str(text + " " + " ".join((*OBJECTS, *PLACES)))
    words = ["<unk>", *dict.fromkeys(word for word, _ in pieces)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def subwords(pre_tokenizer, known, decoder):
    """A byte-pair tokenizer that has seen some words often enough to keep them whole."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁"})
    tokenizer.train_from_iterator(known * 20, trainers.BpeTrainer(vocab_size=340, initial_alphabet=letters))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level():
    """Like GPT-2's: half of the names are single tokens, with the space before them."""
    from tokenizers import decoders, pre_tokenizers

    known = [f" {name}" for name in NAMES[:10]]
    return subwords(pre_tokenizers.ByteLevel(add_prefix_space=False), known, decoders.ByteLevel())


def sentence_pieces():
    """Like Llama's: spaces are written as a letter of their own."""
    from tokenizers import decoders, pre_tokenizers

    return subwords(pre_tokenizers.Metaspace(), [f"a {name}" for name in NAMES[:10]], decoders.Metaspace())


@pytest.mark.parametrize("make", [word_level, byte_level, sentence_pieces])
def test_prompts_know_where_their_names_stand(make):
    tokenizer = make()
    usable = single_tokens(tokenizer, NAMES)
    assert 5 <= len(usable) < len(NAMES)
    found = prompts(tokenizer, 24, seed=1)
    rows = torch.arange(24)
    io, s1, s2 = (found.tokens[rows, place] for place in (found.io, found.s1, found.s2))
    assert torch.equal(s1, s2) and (io != s1).all()
    assert {tokenizer.decode([token]).strip() for token in (*io.tolist(), *s1.tolist())} <= set(usable)
    names_at = torch.zeros_like(found.tokens, dtype=torch.bool)
    for place in (found.io, found.s1, found.s2):
        names_at[rows, place] = True
    assert torch.equal(found.tokens != found.corrupted, names_at)
    for row, end in zip(found.tokens.tolist(), found.end.tolist(), strict=True):
        assert tokenizer.decode(row[: end + 1]).split()[-1] == "to"
    first = (found.io < found.s1).numpy()
    assert first.mean() == 0.5 and all(t.startswith("ABBA") == f for t, f in zip(found.template, first, strict=True))


def test_prompts_are_frozen_by_their_seed():
    tokenizer = word_level()
    one, again, other = (prompts(tokenizer, 12, seed=seed).tokens for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_tokenizer_without_the_names_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="five names that are single tokens.*give names="):
        prompts(byte_level(), 4, names=("Bartholomew", "Wilhelmina"))
    with pytest.raises(ValueError, match="give templates="):
        prompts(word_level(), 4, templates=("Then, {A} and {B} drove and {S} spoke to",))


def test_pairs_of_another_form_are_refused():
    with pytest.raises(ValueError, match="no IOI prompts: in prompt 0 the answer stands .* times"):
        from_pairs(toys.Corpus().pairs(4, seed=0))
    with pytest.raises(ValueError, match="no organism.*there is no tokenizer"):
        IOI.build(Subject(None))


def test_the_names_organism_has_pairs_of_that_form():
    found, law = from_pairs(names.corpus.pairs(32, seed=0)), names.corpus.pairs(32, seed=0)
    rows = torch.arange(32)
    assert torch.equal(found.tokens[rows, found.io], law.answer)
    assert torch.equal(found.tokens[rows, found.s1], law.wrong) and torch.equal(found.tokens[rows, found.s2], law.wrong)


@pytest.mark.parametrize("role", ROLES)
def test_a_planted_head_has_the_role_and_a_uniform_one_its_chance(model, role):
    query, key = (PROBE._place(name) for name in ROLES[role])

    def plant(pattern):
        planted = torch.ones_like(pattern).tril()
        planted /= planted.sum(-1, keepdim=True)
        for example in range(len(query)):
            row = torch.zeros(pattern.shape[-1])
            row[key[example]] = 1
            planted[example, 1, query[example]] = row
        return planted

    with hooked(model, {"blocks.1.attn.hook_pattern": plant}):
        table = PROBE(model)
    rows = table[(table["measure"] == "attention") & (table["role"] == role) & (table["layer"] == 1)]
    assert (rows.loc[rows["head"] == 1, "value"] == 1).all()
    np.testing.assert_allclose(rows.loc[rows["head"] == 0, "value"], rows.loc[rows["head"] == 0, "chance"], rtol=1e-6)


@torch.no_grad()
def test_logit_difference_and_preference_are_those_of_the_logits(model):
    table = PROBE(model)
    scores = logits_at(model, PROBE.data.tokens, PROBE.data.end)
    difference = (scores[:, 8] - scores[:, 9]).double().numpy()
    whole = table[table["measure"] == "logit difference"]
    np.testing.assert_array_equal(whole["value"], difference)
    assert set(whole["run"]) == {"whole"} and set(whole["behaviour"]) == {"ioi"}
    np.testing.assert_array_equal(table.loc[table["measure"] == "preference", "value"], difference > 0)


@torch.no_grad()
def test_direct_effects_equal_the_formula_written_out(model):
    """Llama: (z W_O / rms(stream)) * w @ (W_U[IO] - W_U[S]) at END."""
    hooks = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"]
    _, kept = record(model, PROBE.data.tokens, hooks)
    found = PROBE(model).query("measure == 'direct effect'").set_index(["layer", "head", "example"])["value"]
    difference = model.W_U[:, 8] - model.W_U[:, 9]
    for example, end in enumerate(PROBE.data.end.tolist()):
        stream = kept[hooks[2]][example, end]
        size = (stream.square().mean() + model.cfg.eps).sqrt()
        for layer in range(2):
            for head in range(2):
                added = kept[hooks[layer]][example, end, head] @ model.blocks[layer].attn.W_O[head]
                effect = (added / size * model.ln_final.weight) @ difference
                assert found[layer, head, example] == pytest.approx(float(effect), abs=1e-5)


def runs(probe, model):
    table = probe(model)
    kept = table[table["measure"] == "logit difference"]
    return {run: rows["value"].to_numpy() for run, rows in kept.groupby("run")}


@torch.no_grad()
def test_knock_outs_replace_what_is_outside_and_what_is_inside_the_circuit(model):
    every = ((0, 0), (0, 1), (1, 0), (1, 1))
    whole = runs(IOI(PROBE.data, every, "zero"), model)
    np.testing.assert_array_equal(whole["circuit alone"], whole["whole"])
    silent = {f"blocks.{layer}.attn.hook_z": torch.zeros_like for layer in range(2)}
    with hooked(model, silent):
        scores = logits_at(model, PROBE.data.tokens, PROBE.data.end)
    np.testing.assert_allclose(whole["circuit removed"], scores[:, 8] - scores[:, 9], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_heads_are_filled_in_from_corrupted_prompts_of_the_same_template(model, ablation):
    data = PROBE.data
    _, kept = record(model, data.corrupted, ["blocks.1.attn.hook_z"])
    z = kept["blocks.1.attn.hook_z"]

    def put(activation):
        edited = activation.clone()
        for example in range(len(z)):
            peers = np.flatnonzero(data.template == data.template[example])
            before = peers[list(peers).index(example) - 1]
            edited[example, :, 1] = z[peers].mean(0)[:, 1] if ablation == "mean" else z[before, :, 1]
        return edited

    with hooked(model, {"blocks.1.attn.hook_z": put}):
        scores = logits_at(model, data.tokens, data.end)
    removed = runs(IOI(data, ((1, 1),), ablation), model)["circuit removed"]
    np.testing.assert_allclose(removed, scores[:, 8] - scores[:, 9], atol=1e-5)


def test_a_circuit_beyond_the_model_is_refused(model):
    with pytest.raises(ValueError, match="L5H0 of the circuit are not in a model of 2 layers"):
        IOI(PROBE.data, ((5, 0),))(model)
    with pytest.raises(ValueError, match="'median'; choose from mean, zero, resample"):
        IOI(PROBE.data, ablation="median")


@pytest.mark.skipif(not (names.folder / "config.json").exists(), reason="the organism has no model yet")
def test_on_the_names_organism_the_default_claim_holds_and_all_heads_together_matter():
    """Threshold: the organism's task is learnt to accuracy 1, the claim asks for 0.9."""
    subject = Subject(*names.load(), names)
    probe = IOI.build(subject)
    table = probe(subject.model)
    assert probe.claim().check(table)
    assert table.loc[table["measure"] == "direct effect"].groupby(["layer", "head"])["value"].mean().max() > 0


def test_the_claim_is_decided_where_no_head_speaks_for_io(model):
    probe = IOI(toys.names(4), movers=((0, 0),))
    table = probe(model)
    direct = table["measure"] == "direct effect"
    table.loc[direct, "value"] = (
        -1.0 - table.loc[direct, "layer"].astype(float) - table.loc[direct, "head"].astype(float)
    )
    table.loc[table["measure"] == "preference", "value"] = 1.0
    assert probe.claim().check(table)
