"""From documents to windows: the split by hash, the packing rule, the counts, and one sentence for each mistake."""

import numpy as np
import pytest
import torch

from degrade.packing import pack, split
from degrade.sources import Source
from tests.degrade.texts import SIZE, documents, model, tokenizer

TEXTS = documents()


def source(texts=TEXTS):
    return Source("mine", texts, None, "a line")


def packed(texts=TEXTS, context=32):
    return pack(source(texts), tokenizer(), model(), context)


def test_every_document_is_in_one_set_and_equal_ones_in_the_same():
    parts = split([*TEXTS, *TEXTS])
    places = sorted(place for part in parts.values() for place in part)
    assert places == list(range(2 * len(TEXTS)))
    assert all((place + len(TEXTS) in part) for part in parts.values() for place in part if place < len(TEXTS))


def test_a_document_stays_in_its_set_when_others_come():
    before, after = split(TEXTS), split([*documents(30, seed=1), *TEXTS])
    for name, part in before.items():
        assert [place + 30 for place in part] == [place for place in after[name] if place >= 30]


def test_the_shares_of_the_sets():
    """4000 documents: shares within 4 standard errors, sqrt(p (1 - p) / 4000)."""
    parts = split([f"document {number}" for number in range(4000)])
    for name, share in {"sampling": 0.8, "control": 0.1, "held-out": 0.1}.items():
        assert abs(len(parts[name]) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_windows_are_the_documents_one_behind_the_other():
    """A naive twin, by text: the windows read as the documents of the set, with the end of text before each."""
    told = packed()
    for part, places in zip(told.parts, split(TEXTS).values(), strict=True):
        text = "".join(f"<end>{TEXTS[place]}" for place in places)
        read = tokenizer().decode(part.windows.flatten(), clean_up_tokenization_spaces=False).replace(" ", "")
        assert part.windows.shape[1] == 32
        assert text.replace(" ", "").startswith(read)
        assert part.tokens == sum(len(TEXTS[place]) + 1 for place in places)
        assert part.tokens - 32 < part.windows.numel() <= part.tokens
        assert part.documents == len(places)


def test_tokens_are_counted_and_shown():
    told = packed()
    total = sum(len(text) + 1 for text in TEXTS)
    assert f"data mine: 60 documents (a line), {total:,} tokens; sampling {told.sampling.documents} documents" in str(
        told
    )
    assert f"{total - sum(part.windows.numel() for part in told.parts)} tokens left over" in str(told)


def test_the_context_is_at_most_the_models():
    assert pack(source(), tokenizer(), model(context=16)).sampling.windows.shape[1] == 16
    assert pack(source(), tokenizer()).sampling.windows.shape[1] == 128
    for context in (1, 33):
        with pytest.raises(ValueError, match=f"context={context}; expected at least 2 tokens and at most the 32"):
            packed(context=context)


def test_rows_are_used_as_they_are():
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, SIZE, size=(100, 8)))
    told = pack(Source("mine", None, rows, "a row"), model=model())
    known = {tuple(row) for row in rows.tolist()}
    assert {tuple(row) for part in told.parts for row in part.windows.tolist()} == known
    with pytest.raises(ValueError, match="are rows of 8 tokens; expected 4: rows are used as they are"):
        pack(Source("mine", None, rows, "a row"), model=model(), context=4)
    with pytest.raises(ValueError, match="rows of 64 tokens; expected at most 32"):
        pack(Source("mine", None, torch.zeros(100, 64).long(), "a row"), model=model())
    with pytest.raises(ValueError, match="set of data 'mine' has none of its 2 rows"):
        pack(Source("mine", None, rows[:1].repeat(2, 1), "a row"), model=model())


def test_token_ids_are_packed_without_a_tokenizer():
    rows = [[one, two] for one in range(30) for two in range(30)]
    told = pack(Source("mine", rows, None, "a line"), model=model(), context=4)
    assert sum(part.tokens for part in told.parts) == 2 * 900


def test_text_without_a_tokenizer():
    with pytest.raises(ValueError, match="data 'mine' are text, and the model brings no tokenizer.*give token ids"):
        pack(source(), None, model())


def test_text_of_another_language():
    with pytest.raises(
        ValueError, match="tokenizer does not know 100% of the .* tokens of data 'mine'; expected at most 10%"
    ):
        packed(["ÄÖÜ" * 50] * 20)


@pytest.mark.parametrize("wrong", [SIZE, -1])
def test_token_ids_of_another_tokenizer(wrong):
    for given in (
        Source("mine", [[0, wrong]] * 9, None, "a line"),
        Source("mine", None, torch.tensor([[0, wrong]]), ""),
    ):
        with pytest.raises(ValueError, match=f"hold the token id {wrong}, and the model knows {SIZE}"):
            pack(given, model=model(), context=2)


def test_too_few_documents():
    with pytest.raises(ValueError, match="set of data 'mine' has 0 documents of 0 tokens.*give more documents"):
        packed(TEXTS[:1])
