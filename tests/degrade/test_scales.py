"""Scales: paired gaps against exact laws, bytes as the common unit of two tokenizers, baselines, temperatures, axes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from degrade import label_loss, next_token_loss, scales
from degrade.documents import document_nats, text_nats
from tests.degrade.toys import classifier

STATES, LENGTH = 4, 9


def chain(seed=0):
    """A Markov chain's transition law and a network that knows it."""
    law = torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(STATES), size=STATES))
    return law, nn.Embedding.from_pretrained(law.log().float())


def walks(law, n, seed):
    rng = np.random.default_rng([seed, 1])
    rows = [[int(rng.integers(STATES))] for _ in range(n)]
    for row in rows:
        while len(row) < LENGTH:
            row.append(int(rng.choice(STATES, p=law[row[-1]].numpy())))
    return torch.tensor(rows)


def surprisals(law, tokens):
    return -law[tokens[:, :-1], tokens[:, 1:]].log().sum(1).numpy()


def test_the_gap_is_the_ratio_of_paired_differences():
    rng = np.random.default_rng(0)
    own, reference, count = rng.random(20) + 1, rng.random(20), rng.integers(1, 9, 20)
    found = scales.gap(own, reference, count, "byte")
    assert found.value == pytest.approx((own - reference).sum() / count.sum())
    residuals = own - reference - found.value * count
    assert found.se == pytest.approx(np.std(residuals) * math.sqrt(20 / 19) * math.sqrt(20) / count.sum(), rel=0.2)
    equal = scales.gap(own, reference)
    assert equal.se == pytest.approx(np.std(own - reference, ddof=1) / math.sqrt(20))


def test_the_standard_error_is_that_of_repetitions():
    """200 samples of 100 documents: the standard deviation is known to 1/√400 = 5 %, so 20 % is 4 of those."""
    rng = np.random.default_rng(1)
    count = rng.integers(1, 20, (200, 100))
    difference = 0.3 * count + np.sqrt(count) * rng.standard_normal(count.shape)
    found = [scales.gap(d, np.zeros(100), c) for d, c in zip(difference, count, strict=True)]
    spread = np.std([gap.value for gap in found], ddof=1)
    assert np.mean([gap.se for gap in found]) == pytest.approx(spread, rel=0.2)


def test_the_bayes_predictor_has_no_exact_gap_and_others_their_divergence():
    law, knowing = chain()
    tokens = walks(law, 400, seed=2)
    exact = scales.natural_gap(knowing, surprisals(law, tokens), tokens)
    assert exact.value == pytest.approx(0, abs=1e-6) and exact.unit == "token" and exact.documents == 400
    ignorant = nn.Embedding.from_pretrained(torch.zeros(STATES, STATES))
    found = scales.natural_gap(ignorant, surprisals(law, tokens), tokens)
    entropy = surprisals(law, tokens).mean() / (LENGTH - 1)
    assert found.value == pytest.approx(math.log(STATES) - entropy, rel=1e-5)
    assert scales.natural_gap(ignorant, knowing, tokens).value == pytest.approx(found.value, rel=1e-5)


def test_pairing_removes_the_noise_of_the_text():
    law, knowing = chain()
    tokens = walks(law, 200, seed=3)
    close = nn.Embedding.from_pretrained(
        knowing.weight + 0.1 * torch.randn(STATES, STATES, generator=torch.Generator())
    )
    plain = scales.mean_loss(*document_nats(close, tokens))
    assert scales.natural_gap(close, knowing, tokens).se < plain.se / 3


def test_shapes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(2,\) and \(3,\)"):
        scales.gap([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least two documents"):
        scales.gap([1.0], [1.0])


def tokenizer(words, split):
    vocabulary = {word: place for place, word in enumerate(["<s>", "?", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(split, "isolated") if split else pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="?")


class Uniform(nn.Module):
    """Every token is as likely as any other."""

    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.zeros(size, size))

    def forward(self, tokens):
        return self.table(tokens)


def test_models_with_two_tokenizers_are_compared_by_the_byte():
    from tokenizers import Regex

    texts = ["aab", "b", "abba"]
    letters, pairs = tokenizer("ab", Regex(".")), tokenizer(["aa", "ab", "ba", "bb", "a", "b"], Regex("..?"))
    found = scales.text_gap(Uniform(4), letters, Uniform(8), pairs, texts)
    tokens = (3 + 1 + 4, 2 + 1 + 2)
    assert found.value == pytest.approx((tokens[0] * math.log(4) - tokens[1] * math.log(8)) / 8, rel=1e-6)
    assert found.unit == "byte" and found.documents == 3
    assert text_nats(Uniform(4), letters, texts).tolist() == pytest.approx(
        [math.log(4) * k for k in (3, 1, 4)], rel=1e-6
    )


def test_texts_that_cannot_be_compared_are_refused():
    from tokenizers import Regex

    letters, model = tokenizer("ab", Regex(".")), Uniform(4)
    for texts, said in ((["a", ""], "text 1 is empty"), (["ac"], "text 0 holds what the tokenizer does not know")):
        with pytest.raises(ValueError, match=said):
            text_nats(model, letters, texts)
    model.config = type("Config", (), {"max_position_embeddings": 3})
    with pytest.raises(ValueError, match="text 0 has 4 tokens, its start included, and the model's context is 3"):
        text_nats(model, letters, ["aba"])
    letters.bos_token = None
    with pytest.raises(ValueError, match="neither a bos nor an eos token"):
        text_nats(model, letters, ["a"])


def test_an_untrained_network_is_fresh_and_a_function_of_its_seed():
    net, _ = classifier()
    before = torch.random.get_rng_state()
    one, same, other = (scales.untrained(net, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one[0].weight, same[0].weight) and not torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[0].weight, net[0].weight)


def test_an_untrained_language_model_is_near_a_uniform_guess():
    from tests.probes import toys

    model = toys.bridge()
    tokens = toys.Corpus().heldout(40, seed=0).tokens
    loss = scales.mean_loss(*document_nats(scales.untrained(model), tokens))
    assert loss.value == pytest.approx(math.log(toys.VOCABULARY), abs=0.1)


def test_a_parameter_of_unknown_initialisation_is_named():
    net = nn.Sequential(nn.Linear(2, 2))
    net.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="'scale'"):
        scales.untrained(net)


def test_baselines_of_a_markov_chain():
    law, knowing = chain()
    training, tokens = walks(law, 600, seed=4), walks(law, 200, seed=5)
    found = scales.baselines(knowing, training.numpy(), tokens, STATES)
    own = scales.mean_loss(*document_nats(knowing, tokens))
    assert own.value < found["n-gram 2"].value < found["n-gram 1"].value < found["untrained"].value
    assert abs(found["n-gram 2"].value - own.value) < 0.02  # 4800 transitions, 12 free probabilities


def ladder(power=-0.5):
    nbeta = np.array([1e4, 1e3, 1e2])
    rise = 3 * nbeta**power
    frame = pd.DataFrame({"nbeta": nbeta, "rise": rise, "rise_se": 0.1 * rise, "rung": [1, 2, 3], "verdict": "ok"})
    start = pd.DataFrame([{"nbeta": np.inf, "rise": 0.0, "rise_se": 0.0, "rung": 0, "verdict": "trained"}])
    return pd.concat([start, frame], ignore_index=True)


def test_the_rise_at_a_temperature_follows_a_power_law_exactly():
    found = scales.rise_at(ladder(), 300.0)
    assert found.value == pytest.approx(3 * 300**-0.5)
    assert 0.07 * found.value < found.se < 0.1 * found.value
    assert scales.watanabe(1000) == pytest.approx(1000 / math.log(1000))


def test_a_temperature_outside_the_ladder_has_no_rise_and_says_so():
    for table, nbeta in ((ladder(), 2e4), (ladder().assign(verdict="failed"), 300.0)):
        found = scales.rise_at(table, nbeta)
        assert math.isnan(found.value) and "outside the ladder's temperatures" in found.note
    with pytest.raises(ValueError, match="n=2"):
        scales.watanabe(2)


def test_scaling_the_logits_moves_the_loss_alone():
    net, data = classifier()
    louder = nn.Sequential(*net[:2], nn.Linear(8, 2))
    louder[2].weight.data, louder[2].bias.data = 3 * net[2].weight.data, 3 * net[2].bias.data
    one, other = (scales.axes(model, data, label_loss) for model in (net, louder))
    assert other["loss"] > one["loss"] + 0.05
    assert other["calibrated loss"] == pytest.approx(one["calibrated loss"], abs=1e-3)
    assert other["accuracy"] == one["accuracy"] > 0.8


def test_accuracy_counts_scored_tokens_only():
    law, knowing = chain()
    tokens = walks(law, 50, seed=6)
    labels = tokens.clone()
    labels[:, ::2] = -100
    found = scales.axes(knowing, {"input_ids": tokens, "labels": labels}, next_token_loss)
    right = knowing(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    scored = labels[:, 1:] != -100
    assert found["accuracy"] == pytest.approx((right & scored).sum().item() / scored.sum().item())
    assert math.isnan(scales.axes(knowing, tokens, lambda model, batch: next_token_loss(model, batch))["accuracy"])
