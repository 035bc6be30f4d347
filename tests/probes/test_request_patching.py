"""Request patching: exact laws, a naive twin, the retrieval model's truth, and English tasks for several tokenizers."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from probes import RequestPatching, Subject
from probes.orion import NUMBERS, TASKS, Task, single_tokens, stories
from studies.organisms.retrieval import retrieval
from tests.probes import toys

PAIRS = toys.Corpus().requests(6, seed=0)


@pytest.fixture(scope="module")
def model():
    return toys.bridge()


@pytest.fixture(scope="module")
def table(model):
    return RequestPatching(PAIRS)(model)


def reading(table, measure, layer):
    return table[(table["measure"] == measure) & (table["layer"] == layer)]["value"].to_numpy()


def unpatched(table, prompt):
    return table[(table["measure"] == "baseline") & (table["prompt"] == prompt)]["value"].to_numpy()


def test_the_whole_state_of_the_last_token_carries_the_sources_answer(table):
    assert reading(table, "R1(C1)", 2) == pytest.approx(unpatched(table, "source"), abs=1e-6)


def test_embeddings_of_equal_last_tokens_change_nothing(table):
    assert reading(table, "R2(C2)", 0) == pytest.approx(unpatched(table, "target"), abs=1e-6)


def test_what_follows_the_request_does_not_matter(model, table):
    longer = torch.cat([PAIRS.target, PAIRS.target[:, :4]], dim=1)
    again = RequestPatching(PAIRS._replace(target=longer))(model)
    assert again["value"].to_numpy() == pytest.approx(table["value"].to_numpy(), abs=1e-5)


def test_it_agrees_with_one_patch_at_a_time(model, table):
    for i in range(len(PAIRS.moved)):
        _, cache = model.run_with_cache(PAIRS.source[i : i + 1])
        state = cache["blocks.1.hook_resid_pre"][0, PAIRS.source_position[i]]

        def put(activation, hook, state=state, place=int(PAIRS.target_position[i])):
            activation = activation.clone()
            activation[0, place] = state
            return activation

        scores = model.run_with_hooks(PAIRS.target[i : i + 1], fwd_hooks=[("blocks.1.hook_resid_pre", put)])
        chances = scores[0, PAIRS.target_position[i]].softmax(-1)
        for measure, answers in {
            "R2(C2)": PAIRS.target_answer,
            "R1(C2)": PAIRS.moved,
            "R1(C1)": PAIRS.source_answer,
        }.items():
            assert reading(table, measure, 1)[i] == pytest.approx(chances[answers[i]].item(), abs=1e-6)


def test_losses_normalisation_and_layers_follow_from_the_readings(table):
    import numpy as np

    baseline = table.loc[table["measure"] == "baseline", "value"].mean()
    normalised = {
        (name, layer): reading(table, f"normalised {name}", layer).item()
        for name in ("R2(C2)", "R1(C2)", "R1(C1)")
        for layer in range(3)
    }
    for (name, layer), value in normalised.items():
        assert value == pytest.approx(reading(table, name, layer).mean() / baseline, rel=1e-9)
    assert reading(table, "patched loss", 1) == pytest.approx(-np.log(reading(table, "R1(C2)", 1)), rel=1e-9)
    found = table.set_index("measure")["value"]
    assert found["L2"] == max(range(3), key=lambda layer: normalised["R1(C2)", layer])
    assert found["L1"] == max((layer for layer in range(3) if normalised["R2(C2)", layer] > 0.8), default=-1)
    assert found["L3"] == min((layer for layer in range(3) if normalised["R1(C1)", layer] > 0.8), default=3)


def test_some_layers_are_those_of_all(model, table):
    some = RequestPatching(PAIRS, layers=(0, 2))(model)
    assert set(some["layer"].dropna()) == {0, 2}
    assert (reading(some, "R1(C2)", 2) == reading(table, "R1(C2)", 2)).all()


@pytest.fixture(scope="module")
def trained():
    return retrieval.load()


def test_the_request_is_moved_in_the_retrieval_model(trained):
    """Threshold: Variengien & Winsor report R1(C2) at >= 0.7 of the original probability in 98 of 106 cases.

    Measured: 0.9995 after one block, which is L2, between L1 = 0 and L3 = 2.
    """
    probe = RequestPatching.build(Subject(*trained, organism=retrieval))
    table = probe(trained[0])
    found = table.set_index("measure")["value"]
    assert probe.best == found["L2"] and found["L1"] < found["L2"] < found["L3"]
    assert reading(table, "normalised R1(C2)", probe.best).item() >= 0.7
    assert table.loc[table["measure"] == "accuracy", "value"].mean() >= 0.95
    followed = table[table.get("behaviour").notna()]
    assert set(followed["behaviour"]) == {"request moved"} and set(followed["layer"]) == {probe.best}
    assert probe.claim().check(table)


def test_the_claim_fails_on_another_layer_and_on_an_untrained_model(trained, model, table):
    probe = RequestPatching.build(Subject(*trained, organism=retrieval), n=16)
    wrong = RequestPatching(probe.requests, best=3)
    assert not wrong.claim().check(wrong(trained[0]))
    assert not RequestPatching(PAIRS, best=int(table.set_index("measure")["value"]["L2"])).claim().check(table)


def test_the_patched_models_loss_is_near_its_own_where_requests_move(trained):
    table = RequestPatching.build(Subject(*trained, organism=retrieval))(trained[0])
    own = table.loc[table["measure"] == "loss", "value"].mean()
    assert reading(table, "patched loss", 1).mean() < own + 0.05 < reading(table, "patched loss", 2).mean()


def text_of(task):
    words = [word for values in task.values.values() for word in values]
    lines = [*task.sentences.values(), *(way for ways in task.questions.values() for way in ways), task.text]
    return [f"{line} is {word}" for line, word in zip(lines * len(words), words * len(lines), strict=True)]


def byte_level(task, size=500, bos=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>"] if bos else []
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(text_of(task), trainer)
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>" if bos else None)


def whole_words(task):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(text_of(task), trainers.WordLevelTrainer(special_tokens=["<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_level, whole_words, lambda task: byte_level(task, bos=True)])
@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_written_for_any_tokenizer(make, name):
    tokenizer, task = make(TASKS[name]), TASKS[name]
    pairs = stories(tokenizer, name, n=12, seed=3)
    rows = torch.arange(12)
    answers = torch.stack([pairs.target_answer, pairs.moved, pairs.source_answer])
    assert all(len(set(column.tolist())) == 3 for column in answers.T)
    values = set().union(*(single_tokens(tokenizer, words).values() for words in task.values.values()))
    assert set(answers.flatten().tolist()) <= values
    for tokens, place, said in (
        (pairs.source, pairs.source_position, (2,)),
        (pairs.target, pairs.target_position, (0, 1)),
    ):
        assert (tokens[rows, place] == tokens[0, place[0]]).all() or name == "variables"
        for i in range(12):
            prompt = tokens[i, : place[i] + 1].tolist()
            assert all(int(answers[j, i]) in prompt for j in said)
            assert (tokens[i, place[i] :] == tokens[i, place[i]]).all()
            assert tokenizer.bos_token_id is None or prompt[0] == tokenizer.bos_token_id
    again = stories(tokenizer, name, n=12, seed=3)
    assert torch.equal(pairs.source, again.source) and torch.equal(pairs.target, again.target)


def test_requests_ask_for_the_value_that_the_context_gives():
    tokenizer = byte_level(TASKS["variables"])
    pairs = stories(tokenizer, "variables", n=20, seed=1)
    for tokens, place, answer in zip(pairs.target, pairs.target_position, pairs.target_answer, strict=True):
        text = tokenizer.decode(tokens[: place + 1])
        asked = text.split(" So the ")[1].removesuffix(" is")
        assert text.split(f"The {asked} is ")[1].split(".")[0] == tokenizer.decode(answer).strip()


def test_values_of_several_tokens_are_left_out_and_too_few_are_refused():
    task = Task({"a": NUMBERS, "b": ("one", "unheard-of")}, {}, {}, "")
    with pytest.raises(ValueError, match="attributes b need three values .*give a Task"):
        stories(byte_level(TASKS["variables"]), task)


def test_a_task_by_name_is_built_for_the_subjects_tokenizer(trained):
    tokenizer = whole_words(TASKS["variables"])
    wide = toys.bridge(vocabulary=len(tokenizer))
    probe = RequestPatching.build(Subject(wide, tokenizer=tokenizer), n=4, task="variables", layers=1)
    assert set(probe(wide)["layer"].dropna()) == {1} and probe.best == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": PAIRS._replace(moved=PAIRS.source_answer)}, "two equal answers among"),
        (
            {"requests": PAIRS._replace(source_position=PAIRS.source_position + 99)},
            "source_position must lie in 0..15, got .*104",
        ),
        ({"requests": PAIRS, "layers": "some"}, "unknown layers 'some'; expected 'all'"),
    ],
)
def test_bad_pairs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RequestPatching(**change)


def test_layers_outside_the_model_and_missing_parts_are_refused(model):
    with pytest.raises(ValueError, match=r"layers must lie in 0..2 .* got \[3\]"):
        RequestPatching(PAIRS, layers=(1, 3))(model)
    with pytest.raises(ValueError, match="needs corpus.requests.*or give task= one of stories"):
        RequestPatching.build(Subject(model, organism=SimpleNamespace(corpus=object())))
    with pytest.raises(ValueError, match="unknown task 'poems'; choose from stories"):
        RequestPatching.build(Subject(model, tokenizer=object()), task="poems")
    with pytest.raises(ValueError, match="needs a tokenizer, got None"):
        RequestPatching.build(Subject(model), task="stories")
    with pytest.raises(ValueError, match="needs the layer found at w"):
        RequestPatching(PAIRS).claim()
