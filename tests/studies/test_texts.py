"""A model and documents by name: what studies read of them, and the survival study on them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from degrade.losses import next_token_loss
from studies import survival
from studies.marks import marks
from studies.subject import build_probes, open_subject
from tests.degrade.texts import documents, model, tokenizer


def rhymes(count=300):
    """Documents with something to learn: five words, each before the same other one."""
    rng = np.random.default_rng(0)
    words, after = ["apple", "river", "stone", "cloud", "night"], [2, 3, 1, 4, 0]
    texts = []
    for _ in range(count):
        picked = [int(rng.integers(5))]
        while len(picked) < 12:
            picked.append(after[picked[-1]] if rng.random() < 0.9 else int(rng.integers(5)))
        texts.append(" ".join(words[one] for one in picked) + ".")
    return texts


def written(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained model with its tokenizer, and its documents."""
    folder = tmp_path_factory.mktemp("texts")
    reader, net = tokenizer(), model(context=64)
    stream = [token for ids in reader(rhymes(), add_special_tokens=False)["input_ids"] for token in ids]
    rows = torch.tensor(stream[: len(stream) // 32 * 32]).reshape(-1, 32)
    optimizer, generator = torch.optim.Adam(net.parameters(), lr=0.01), torch.Generator().manual_seed(0)
    for _ in range(200):
        nats, count = next_token_loss(net, rows[torch.randint(len(rows), (16,), generator=generator)])
        optimizer.zero_grad()
        (nats.sum() / count.sum()).backward()
        optimizer.step()
    net.save_pretrained(folder / "model")
    reader.save_pretrained(folder / "model")
    written(folder / "rhymes.jsonl", rhymes())
    return folder


@pytest.fixture(scope="module")
def subject(place):
    return open_subject(str(place / "model"), str(place / "rhymes.jsonl"), 32)


def test_a_subject_without_an_organism_has_the_sampling_set_and_the_held_out_set(subject, capsys):
    packed = subject.organism.corpus.data
    assert torch.equal(subject.data, packed.sampling.windows)
    assert torch.equal(subject.organism.corpus.training().tokens, subject.data)
    held = subject.organism.corpus.heldout(5, seed=1).tokens
    known = {tuple(row) for row in packed.heldout.windows.tolist()}
    assert held.shape == (5, 32) and {tuple(row) for row in held.tolist()} <= known
    assert torch.equal(held, subject.organism.corpus.heldout(5, seed=1).tokens)
    assert len(subject.organism.corpus.control(10**6, seed=0).tokens) == len(packed.control.windows)


def test_the_tokens_of_each_set_are_shown(place, capsys):
    open_subject(str(place / "model"), str(place / "rhymes.jsonl"), 32)
    said = capsys.readouterr().err
    assert "300 documents" in said and "tokens; sampling " in said and "; control " in said and "; held-out " in said


def test_probes_that_need_an_organism_are_left_out_with_a_warning(subject):
    with pytest.warns(UserWarning) as told:
        probes = build_probes(subject, None, survival.PROBES)
    left = " ".join(str(one.message) for one in told)
    assert all(f"left out: {name}" in left for name in ("kinds", "patching", "recall"))
    assert probes[0].name == "induction"
    assert build_probes(subject, ["induction:n=3"], survival.PROBES)[0].tokens.shape[0] == 3


def test_marks_are_those_of_a_text(subject):
    """n-grams and a fresh model; by the text's law a bigram of letters is between a unigram and the model."""
    told = marks(subject).set_index("measure").value
    assert set(told.index) == {"n-gram 1", "n-gram 2", "n-gram 3", "untrained"}
    assert told["untrained"] > told["n-gram 1"] > told["n-gram 2"] > 0


def test_a_model_without_data_and_an_organism_with_a_context(place):
    with pytest.raises(ValueError, match="is no organism .*mixture.*so it brings no data: give documents with --data"):
        open_subject(str(place / "model"))
    with pytest.raises(ValueError, match="context=32 is for documents given with --data; the organism 'mixture' has"):
        open_subject("mixture", context=32)


def test_an_organism_reads_no_foreign_text(tmp_path):
    with pytest.raises(ValueError, match="tokenizer does not know .* of the .* tokens of data"):
        open_subject("mixture", written(tmp_path / "a.jsonl", documents()))


@pytest.mark.slow
def test_survival_of_a_named_model_on_named_documents(place, tmp_path):
    with pytest.warns(UserWarning, match="left out"):
        table = survival.run(
            model=str(place / "model"), data=str(place / "rhymes.jsonl"), context=32, rises=[0.05, 0.1], quick=True,
            workers=1, out=tmp_path / "run", progress=False,
        )  # fmt: skip
    assert {"induction", "mark"} <= set(table["probe"])
    stored = pd.read_parquet(tmp_path / "run" / "ladder.parquet")
    assert (stored["heldout_rise"][1:] > 0).all()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "300 documents" in page
