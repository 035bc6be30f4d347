"""The mixture corpus: exact entropies against Monte Carlo, held-out pairs, canaries, determinism, questions."""

import numpy as np
import pytest
import torch

from studies.organisms.mixture.corpus import Corpus, apportion
from studies.organisms.mixture.kinds import row_entropy
from studies.organisms.mixture.language import MODULUS, split_pairs, stream, zipf
from studies.organisms.mixture.references import unmirrored
from studies.organisms.mixture.vocabulary import KINDS, VOCABULARY, WORDS, ids

N = 4000


@pytest.fixture(scope="module")
def corpus():
    return Corpus(seed=0)


@pytest.fixture(scope="module")
def training(corpus):
    return corpus.training()


@pytest.fixture(scope="module")
def queries(corpus):
    return corpus.queries(60, seed=3)


def words(tokens):
    return [VOCABULARY[token] for token in tokens]


def test_vocabulary_has_no_word_twice():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert sum(len(ids(group)) for group in WORDS) == len(VOCABULARY)
    with pytest.raises(KeyError, match="letter"):
        ids("letters")


@pytest.mark.parametrize("kind", KINDS)
def test_exact_entropy_agrees_with_monte_carlo(corpus, kind):
    sample = corpus.of_kind(kind, N, seed=7)
    for column in (sample.surprisal, sample.entropy):
        mean = column.mean(1)
        assert abs(mean.mean() - corpus.mean_entropy(kind)) <= 4 * mean.std(ddof=1) / N**0.5 + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_surprisal_is_unbiased_at_every_position(corpus, kind):
    sample = corpus.of_kind(kind, N, seed=8)
    excess = sample.surprisal - sample.entropy
    error = excess.std(0, ddof=1) / N**0.5
    assert (np.abs(excess.mean(0)) <= 5 * error + 1e-12).all()


def test_mixture_entropy_agrees_with_monte_carlo(corpus):
    mean = corpus.heldout(N, seed=9).surprisal.mean(1)
    assert abs(mean.mean() - corpus.mean_entropy()) <= 4 * mean.std(ddof=1) / N**0.5


def test_sample_has_the_promised_form(corpus):
    sample = corpus.heldout(500, seed=1)
    assert sample.tokens.shape == (500, 32) and sample.tokens.dtype == torch.int64
    assert sample.entropy.shape == sample.surprisal.shape == (500, 31)
    assert words(sample.tokens[:, 0]) == [f"<{kind}>" for kind in sample.kind]
    assert {kind: int((sample.kind == kind).sum()) for kind in KINDS} == apportion(corpus.shares, 500)
    assert not sample.copies.any()
    special = torch.from_numpy(ids("special"))
    assert not torch.isin(sample.tokens, special).any()


def test_training_is_a_function_of_the_seed(corpus, training):
    again = Corpus(seed=0).training()
    for mine, other in zip(training, again, strict=True):
        assert (np.asarray(mine) == np.asarray(other)).all()
    assert not torch.equal(training.tokens, Corpus(seed=1).training().tokens)


def test_samples_are_functions_of_their_seed(corpus):
    assert torch.equal(corpus.heldout(100, seed=1).tokens, Corpus(seed=0).heldout(100, seed=1).tokens)
    assert not torch.equal(corpus.heldout(100, seed=1).tokens, corpus.heldout(100, seed=2).tokens)
    assert not torch.equal(corpus.of_kind("noise", 50, 1).tokens, corpus.of_kind("noise", 50, 2).tokens)


def test_training_holds_each_canary_in_its_copies(corpus, training):
    canaries = corpus.canaries()
    assert len(canaries.copies) == corpus.design.canaries * len(corpus.design.copies) >= 16 * 7
    rows = [tuple(row) for row in training.tokens.tolist()]
    for canary, copies in zip(canaries.tokens.tolist(), canaries.copies, strict=True):
        assert rows.count(tuple(canary)) == copies
    assert training.copies.sum() == (canaries.copies**2).sum()
    counts = {kind: int((training.kind == kind).sum()) for kind in KINDS}
    assert counts == apportion(corpus.shares, corpus.design.rows)


def test_held_out_never_holds_a_canary(corpus):
    canaries = {tuple(row) for row in corpus.canaries().tokens.tolist()}
    for sample in (corpus.heldout(N, seed=0), corpus.of_kind("noise", N, seed=0)):
        assert not canaries & {tuple(row) for row in sample.tokens.tolist()}


def test_held_out_pairs_never_occur(corpus, training):
    seen, heldout = split_pairs(corpus.design.heldout_pairs, stream(corpus.seed, "addition"))
    assert len(seen) + len(heldout) == MODULUS**2
    assert not {tuple(pair) for pair in seen.tolist()} & {tuple(pair) for pair in heldout.tolist()}
    assert 0.27 < len(heldout) / MODULUS**2 < 0.33
    for sample in (training, corpus.of_kind("addition", N, seed=1)):
        body = sample.tokens.numpy()[sample.kind == "addition"][:, 1:]
        a, b = (body[:, i::4][:, :8] - ids("number")[0] for i in (0, 1))
        used = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        assert not used & {tuple(pair) for pair in heldout.tolist()}


def test_unmirrored_sums_are_held_out_both_ways(corpus, training, queries):
    mask = unmirrored(corpus, queries)
    assert 0 < mask.sum() < (queries.group == "addition held out").sum()
    body = training.tokens.numpy()[training.kind == "addition"][:, 1:]
    used = set(zip(body[:, 0::4].ravel().tolist(), body[:, 1::4].ravel().tolist(), strict=True))
    for i in np.flatnonzero(queries.group == "addition held out"):
        a, b = (int(queries.tokens[i, queries.position[i] - back]) for back in (2, 1))
        assert (a, b) not in used and ((b, a) not in used) == mask[i]


def test_equations_are_right(corpus):
    body = corpus.of_kind("addition", 200, seed=1).tokens.numpy()[:, 1:]
    a, b, c = (body[:, i::4][:, :7] - ids("number")[0] for i in (0, 1, 3))
    assert ((a + b) % MODULUS == c).all()


def test_keys_determine_values(corpus):
    for kind, at_least in (("facts", 30), ("tail", 500)):
        law = corpus.laws[kind]
        keys = {tuple(row) for row in law.records[:, :-1].tolist()}
        assert len(keys) == len(law.records) >= at_least
        assert (np.diff(law.weights) <= 1e-15).all()


def test_the_words_of_a_tail_key_are_independent(corpus):
    law, words = corpus.laws["tail"], corpus.design.tail_words
    left, right = (law.records[:, column] - ids(name)[0] for column, name in enumerate(("left", "right")))
    joint = np.zeros((words, words))
    joint[left, right] = law.weights
    np.testing.assert_allclose(joint, np.outer(joint.sum(1), joint.sum(0)), rtol=1e-12)
    np.testing.assert_allclose(joint.sum(1), zipf(words, corpus.design.tail_exponent), rtol=1e-12)


def test_the_entropy_of_the_tail_is_that_of_its_words(corpus):
    words = row_entropy(zipf(corpus.design.tail_words, corpus.design.tail_exponent))
    profile = np.array([words, words, 0.0] * 11)[: corpus.laws["tail"].length]
    assert corpus.mean_entropy("tail") == pytest.approx(profile.mean(), rel=1e-12)
    entropy, _ = corpus.laws["tail"].score(corpus.of_kind("tail", 20, seed=2).tokens.numpy()[:, 1:])
    np.testing.assert_allclose(entropy, np.tile(profile, (20, 1)), atol=1e-12)


def test_questions_are_answered_by_their_own_text(corpus, queries):
    rows = np.arange(len(queries.answer))
    assert (queries.tokens[rows, queries.position + 1] == queries.answer).all()
    assert queries.tokens.shape[1] == 32 and (queries.position < 31).all()
    assert len(set(queries.group.tolist())) == 9 and len(rows) == 9 * 60
    assert ((queries.chance > 0) & (queries.chance <= 1 / 8)).all()


def test_questions_about_facts_show_no_second_copy_of_the_key(corpus, queries):
    for i in np.flatnonzero(np.char.startswith(queries.group.astype(str), "facts")):
        row, p = queries.tokens[i], int(queries.position[i])
        assert (row[1:-1:2] == row[p]).sum() == 1


def test_answers_of_each_group(corpus, queries):
    for i, group in enumerate(queries.group.tolist()):
        row, p = words(queries.tokens[i]), int(queries.position[i])
        answer = VOCABULARY[int(queries.answer[i])]
        if group.startswith("addition"):
            assert (int(row[p - 2]) + int(row[p - 1])) % MODULUS == int(answer)
        elif group == "retrieval":
            assert row[p] == "ANS" and row[row.index(row[p - 2]) + 1] == answer
        else:
            kind = group.split()[0]
            law = corpus.laws[kind]
            key = [int(token) for token in queries.tokens[i, p + 2 - law.width : p + 1]]
            record = law.records[(law.records[:, :-1] == key).all(1)]
            assert VOCABULARY[int(record[0, -1])] == answer


def test_frequency_is_the_count_in_training(corpus, training, queries):
    body = training.tokens[torch.from_numpy(training.kind == "facts")][:, 1:31]
    for i in np.flatnonzero(queries.group == "facts rare")[:10]:
        key = queries.tokens[i, queries.position[i]]
        assert queries.frequency[i] == int((body[:, 0::2] == key).sum())
    assert (queries.frequency[queries.group == "addition held out"] == 0).all()
    assert np.isnan(queries.frequency[queries.group == "retrieval"]).all()
    order = [queries.frequency[queries.group == f"facts {name}"].min() for name in ("frequent", "middle", "rare")]
    assert order == sorted(order, reverse=True)


def test_pairs_differ_in_one_value(corpus):
    pairs = corpus.pairs(100, seed=4)
    rows = torch.arange(100)
    assert (pairs.clean[rows, pairs.position + 1] == pairs.answer).all()
    assert (pairs.corrupted[rows, pairs.position + 1] == pairs.wrong).all()
    assert (pairs.answer != pairs.wrong).all()
    prompt = torch.arange(32)[None, :] <= pairs.position[:, None]
    differs = (pairs.clean != pairs.corrupted) & prompt
    assert (differs.sum(1) == 1).all()
    changed = differs.int().argmax(1)
    assert (pairs.clean[rows, changed] == pairs.answer).all() and (pairs.corrupted[rows, changed] == pairs.wrong).all()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_small_samples_keep_their_form(corpus, n):
    sample = corpus.heldout(n, seed=1)
    assert sample.tokens.shape == (n, 32) and sample.surprisal.shape == (n, 31) and len(sample.kind) == n


def test_unknown_kind_lists_the_kinds(corpus):
    with pytest.raises(ValueError, match="'poems'.*markov2"):
        corpus.of_kind("poems", 1, 0)
