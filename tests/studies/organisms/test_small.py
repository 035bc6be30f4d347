"""The small organisms: exact entropies, what their questions promise, and that the shipped models reach their cards."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from degrade import next_token_loss, plugins
from studies.organisms.induction import induction
from studies.organisms.induction import train as induction_training
from studies.organisms.mixture.references import gap, sample_nats
from studies.organisms.modular import modular
from studies.organisms.modular import train as modular_training
from studies.organisms.names import names
from studies.organisms.names import train as names_training
from studies.organisms.names.corpus import NAMES, Giving
from studies.organisms.retrieval import retrieval
from studies.organisms.retrieval import train as retrieval_training
from studies.organisms.retrieval.corpus import ANSWERS, ASKED_AT
from studies.organisms.training import RECORDED, RECORDED_SEED, Before, train

ORGANISMS = {organism.name: organism for organism in (induction, modular, names, retrieval)}
TRAINING = {
    "induction": induction_training,
    "modular": modular_training,
    "names": names_training,
    "retrieval": retrieval_training,
}
N = 3000


@pytest.fixture(params=ORGANISMS)
def organism(request):
    return ORGANISMS[request.param]


def words(organism, tokens):
    return [organism.corpus.vocabulary[token] for token in tokens]


def places(organism):
    return slice(None) if organism.scored is None else [place - 1 for place in organism.scored]


def test_importing_an_organism_is_cheap(organism):
    code = f"import sys, studies.organisms.{organism.name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_is_installed_and_describes_itself(organism):
    assert plugins.find("organisms", organism.name) is organism and "\n" not in organism.summary


def test_all_directories_together_are_small():
    files = [file for organism in ORGANISMS.values() for file in organism.folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 3_000_000


def test_entropy_is_that_of_the_law(organism):
    sample = organism.corpus.heldout(N, seed=7)
    for column in (sample.entropy, sample.surprisal):
        mean = column[:, places(organism)].mean(1)
        error = mean.std(ddof=1) / len(mean) ** 0.5
        assert abs(mean.mean() - organism.corpus.mean_entropy()) <= 4 * error + 1e-12


def test_surprisal_is_unbiased_at_every_position(organism):
    sample = organism.corpus.heldout(N, seed=8)
    excess = sample.surprisal - sample.entropy
    assert (np.abs(excess.mean(0)) <= 5 * excess.std(0, ddof=1) / len(excess) ** 0.5 + 1e-12).all()


def test_samples_are_functions_of_their_seed(organism):
    corpus, again = organism.corpus, type(organism).corpus.func(organism)
    assert corpus.fingerprint() == again.fingerprint()
    assert torch.equal(corpus.heldout(50, 1).tokens, again.heldout(50, 1).tokens)
    assert not torch.equal(corpus.heldout(50, 1).tokens, corpus.heldout(50, 2).tokens)
    sample = corpus.heldout(50, 1)
    assert sample.tokens.shape == (50, corpus.length) and sample.entropy.shape == (50, corpus.length - 1)


@pytest.fixture(scope="module")
def models():
    return {name: AutoModelForCausalLM.from_pretrained(found.folder).eval() for name, found in ORGANISMS.items()}


def test_the_model_was_trained_on_this_corpus(organism):
    recipe = json.loads((organism.folder / "recipe.json").read_text())
    assert recipe["corpus sha256"] == organism.corpus.fingerprint()
    shipped = TRAINING[organism.name].RECIPE
    assert all(recipe[name] == getattr(shipped, name) for name in ("layers", "width", "steps", "rate", "decay", "seed"))


def test_architecture_and_tokenizer(organism, models):
    config, tokenizer = models[organism.name].config, AutoTokenizer.from_pretrained(organism.folder)
    assert config.model_type == "llama" and config.num_key_value_heads == config.num_attention_heads
    assert not config.tie_word_embeddings
    vocabulary = list(organism.corpus.vocabulary)
    assert config.vocab_size == len(vocabulary) not in (config.hidden_size, config.intermediate_size)
    assert tokenizer(" ".join(vocabulary))["input_ids"] == list(range(len(vocabulary)))


def test_it_loads_through_the_bridge(organism, models):
    bridge, _ = organism.load()
    tokens = organism.corpus.heldout(3, seed=1).tokens
    with torch.no_grad():
        assert (bridge(tokens) - models[organism.name](tokens).logits).abs().max() < 1e-4


def test_references_are_what_the_model_reaches(organism, models):
    marks = organism.references()
    assert marks["entropy"] == pytest.approx(organism.corpus.mean_entropy(), abs=1e-6)
    measured, _ = gap(models[organism.name], organism.corpus.heldout(RECORDED, RECORDED_SEED), organism.scored)
    assert marks["model"] - marks["entropy"] == pytest.approx(measured, abs=1e-4)
    assert (
        marks["entropy"]
        < marks["model"]
        < min(value for name, value in marks.items() if name not in ("entropy", "model"))
    )
    assert marks["untrained"] > 0.8 * np.log(len(organism.corpus.vocabulary))


def test_examples_score_what_the_model_was_trained_on(organism, models):
    sample = organism.corpus.heldout(20, seed=3)
    with torch.no_grad():
        nats, count = next_token_loss(models[organism.name], organism.examples(sample.tokens))
    expected = len(range(organism.corpus.length - 1)[:] if organism.scored is None else organism.scored)
    assert count.tolist() == [expected] * 20
    mean = sample_nats(models[organism.name], sample, scored=organism.scored)
    assert (nats / count).numpy() == pytest.approx(mean, abs=1e-4)


def test_no_larger_model_is_said_so(organism):
    for ask in (organism.load_larger, organism.reference_gap):
        with pytest.raises(ValueError, match=f"{organism.name!r} ships no larger model"):
            ask()


@pytest.mark.parametrize(
    ("name", "least"), [("induction", {}), ("modular", {"held-out accuracy": 0.99}), ("names", {}), ("retrieval", {})]
)
def test_shipped_models_meet_their_targets(name, least, models):
    found = TRAINING[name].measured(models[name])
    for measure, bound in (least or {"accuracy": 0.97}).items():
        assert found[measure] >= bound
    if name == "names":
        assert found["logit difference"] > 3


@pytest.mark.parametrize("before", [False, True])
def test_training_is_deterministic_and_writes_a_directory(tmp_path, before):
    first = Before(retrieval.corpus.heldout(64, 5).tokens, steps=1) if before else None
    recipe = replace(retrieval_training.RECIPE, layers=1, width=16, hidden=8, steps=3)
    models = [
        train(retrieval, recipe, lambda model: {"parameters": 1.0}, tmp_path / name, every=2, before=first)
        for name in ("a", "b")
    ]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), again.parameters(), strict=True))
    assert json.loads((tmp_path / "a" / "recipe.json").read_text()).get("steps before") == (1 if before else None)
    assert set(json.loads((tmp_path / "a" / "references.json").read_text())) == {"entropy", "model", "untrained"}


def test_segments_repeat_and_the_repeats_are_certain():
    sample = induction.corpus.of_kind("repeat", 50, seed=2)
    for row, entropy in zip(sample.tokens[:, 1:].tolist(), sample.entropy, strict=True):
        period = row[1:].index(row[0]) + 1
        assert 8 <= period <= 20 and row[period:] == row[: len(row) - period]
        assert len(set(row[:period])) == period
        assert (entropy[period + 1 :] == 0).all() and (entropy[: min(period + 1, 20)] > 0).all()
    with pytest.raises(ValueError, match="unknown kind 'noise'; the induction corpus has one kind, 'repeat'"):
        induction.corpus.of_kind("noise", 1, 0)


def story(tokens):
    """What a story says: people by what they are to somebody, and the (question, answer) pairs."""
    text = words(retrieval, tokens)
    told = {text[i + 1]: text[i + 2] for i in range(1, 17, 4)}
    return told, [(text[i - 3], text[i]) for i in ANSWERS]


KINDS_OF = {"likes": 0, "adores": 0, "fears": 1, "dreads": 1, "helps": 2, "aids": 2, "meets": 3, "visits": 3}
ASKED = {"friend": 0, "idol": 0, "foe": 1, "terror": 1, "pupil": 2, "patient": 2, "host": 3, "guest": 3}


def test_stories_answer_their_own_questions():
    for tokens in retrieval.corpus.heldout(50, seed=3).tokens:
        told, asked = story(tokens)
        people = {KINDS_OF[marker]: person for marker, person in told.items()}
        assert sorted(people) == [0, 1, 2, 3] == sorted(ASKED[question] for question, _ in asked)
        assert all(people[ASKED[question]] == person for question, person in asked)


def test_pairs_of_stories_differ_in_one_person_before_the_answer():
    pairs = retrieval.corpus.pairs(40, seed=4)
    prompt = slice(0, ASKED_AT + 1)
    differs = pairs.clean[:, prompt] != pairs.corrupted[:, prompt]
    assert (differs.sum(1) == 1).all() and (pairs.answer != pairs.wrong).all()
    rows, changed = torch.arange(40), differs.int().argmax(1)
    assert torch.equal(pairs.clean[rows, changed], pairs.answer)
    assert torch.equal(pairs.corrupted[rows, changed], pairs.wrong)


def test_requests_are_answered_by_the_context_they_are_moved_to():
    found = retrieval.corpus.requests(60, seed=5)
    for i in range(60):
        (_, asked1), (told2, asked2) = story(found.source[i]), story(found.target[i])
        people2 = {KINDS_OF[marker]: person for marker, person in told2.items()}
        right, moved, carried = (
            retrieval.corpus.vocabulary[int(answer[i])]
            for answer in (found.target_answer, found.moved, found.source_answer)
        )
        assert ASKED[asked1[0][0]] != ASKED[asked2[0][0]] and len({right, moved, carried}) == 3
        assert right == asked2[0][1] == people2[ASKED[asked2[0][0]]]
        assert moved == people2[ASKED[asked1[0][0]]] and carried == asked1[0][1]
    assert (found.source_position == found.target_position).all() and (
        found.source[:, ASKED_AT] == found.target[:, ASKED_AT]
    ).all()


def test_sentences_name_the_giver_and_the_other_one_receives():
    sample = names.corpus.heldout(400, seed=6)
    thirds = 0
    for tokens in sample.tokens:
        text = [word for word in words(names, tokens) if word in NAMES]
        a, b, giver, receiver = text
        assert receiver in (a, b) and giver != receiver and a != b
        thirds += giver not in (a, b)
    error = (0.2 * 0.8 / 400) ** 0.5
    assert abs(thirds / 400 - 0.2) < 4 * error
    assert Giving(third=0.5).mean_entropy() > 0


def test_pairs_of_names_swap_the_giver():
    pairs = names.corpus.pairs(40, seed=7)
    differs = pairs.clean[:, :16] != pairs.corrupted[:, :16]
    assert (differs.sum(1) == 1).all()
    rows, giver = torch.arange(40), differs.int().argmax(1)
    assert torch.equal(pairs.clean[rows, giver], pairs.wrong) and torch.equal(
        pairs.corrupted[rows, giver], pairs.answer
    )
    assert (pairs.position == 15).all()


def test_sums_are_right_and_split_once():
    corpus = modular.corpus
    sums, training = corpus.sums(), corpus.training().tokens
    held = corpus.heldout(10**6, seed=1).tokens
    assert len(training) + len(held) == 113**2 == len(sums.tokens)
    pairs = {tuple(row) for row in training[:, :2].tolist()}
    assert not pairs & {tuple(row) for row in held[:, :2].tolist()}
    both = torch.cat([training, held])
    assert torch.equal((both[:, 0] + both[:, 1]) % 113, both[:, 3])
    marked = {tuple(row) for row in sums.tokens[torch.from_numpy(sums.trained)][:, :2].tolist()}
    assert marked == pairs
    queries = corpus.queries(30, seed=2)
    seen = [tuple(row) in pairs for row in queries.tokens[:, :2].tolist()]
    assert seen == (queries.group == "sums seen").tolist()
    assert torch.equal(queries.tokens[:, 3], queries.answer)
