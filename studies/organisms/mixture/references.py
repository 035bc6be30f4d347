"""What models of the mixture corpus reach: losses against the exact entropy, accuracies, and the marks that ship.

`python -m studies.organisms.mixture.references` writes `references.json` and `measured.csv` beside the model, and the
larger model's losses on fixed held-out sequences, `heldout.npz`, beside the larger one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from degrade import scales
from degrade.ngrams import ngram_nats
from studies.organisms.mixture.corpus import Corpus, Sample
from studies.organisms.mixture.language import split_pairs, stream
from studies.organisms.mixture.queries import Queries
from studies.organisms.mixture.vocabulary import MODULUS, ids

RECORDED = 4000
RECORDED_SEED = 2026


def token_nats(model: Any, tokens: Tensor) -> Tensor:
    """-log p of every token after the first under a model that returns logits or an object with `.logits`.

    Args:
        model: Causal language model.
        tokens: (n, T) token ids.

    Returns:
        (n, T - 1) nats.
    """
    output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    flat = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1)


@torch.no_grad()
def sample_nats(model: Any, sample: Sample, batch: int = 256, scored: Sequence[int] | None = None) -> np.ndarray:
    """Mean loss of each sequence of a sample over its scored tokens (None: all), shape (n,), in nats per token."""
    parts = [token_nats(model, tokens).double()[:, columns(scored)].mean(1) for tokens in sample.tokens.split(batch)]
    return torch.cat(parts).numpy()


def columns(scored: Sequence[int] | None) -> slice | list[int]:
    """Where tokens at these places stand in a table of the T - 1 predicted ones."""
    return slice(None) if scored is None else [place - 1 for place in scored]


def gap(model: Any, sample: Sample, scored: Sequence[int] | None = None) -> tuple[float, float]:
    """L(model) - H with the Bayes predictor's loss on the same tokens as control variate.

    E[-log p_Bayes] = H exactly, so mean(-log p_model + log p_Bayes) estimates the same gap as mean(-log p_model) - H
    without the noise of the text.

    Args:
        model: Causal language model.
        sample: Sequences with their surprisal.
        scored: Places of the tokens that count; None: all after the first.

    Returns:
        Mean and standard error over sequences, in nats per scored token.
    """
    return scales.gap(sample_nats(model, sample, scored=scored), sample.surprisal[:, columns(scored)].mean(1))[:2]


def paired_gap(model: Any, corpus: Corpus, recorded: Path) -> tuple[float, float]:
    """L(model) - L(recorded model) on the held-out sequences whose losses are recorded.

    Args:
        model: Causal language model.
        corpus: Corpus the sequences come from.
        recorded: `.npz` with `nats` (loss of each sequence, nats per token) and the `seed` of the sequences.

    Returns:
        Mean and standard error over sequences, paired, in nats per token.
    """
    with np.load(recorded) as file:
        nats, seed = file["nats"], int(file["seed"])
    return scales.gap(sample_nats(model, corpus.heldout(len(nats), seed)), nats)[:2]


def excesses(model: Any, corpus: Corpus, n: int, seed: int) -> dict[str, float]:
    """Exact gap of each kind on `n` fresh sequences, and of the mixture ("all"), in nats per token."""
    by_kind = {kind: gap(model, corpus.of_kind(kind, n, seed))[0] for kind in corpus.shares}
    return by_kind | {"all": sum(share * by_kind[kind] for kind, share in corpus.shares.items())}


@torch.no_grad()
def accuracies(model: Any, corpus: Corpus, n: int, seed: int) -> dict[str, float]:
    """Accuracy on each group of questions, on the repeats of repeated segments, and on canaries by copies.

    Induction counts the tokens of "repeat" sequences whose entropy is 0, recital the tokens of a canary after the
    first eight. Sums with "no mirror" are the held-out a + b whose b + a is held out too.
    """
    asked = corpus.queries(n, seed)
    rows = torch.arange(len(asked.answer))
    right = (predictions(model, asked.tokens)[rows, asked.position] == asked.answer).numpy()
    table = {name: float(right[asked.group == name].mean()) for name in dict.fromkeys(asked.group.tolist())}
    table["addition held out, no mirror"] = float(right[unmirrored(corpus, asked)].mean())
    repeats = corpus.of_kind("repeat", n, seed)
    table["induction"] = float(hits(model, repeats.tokens)[repeats.entropy == 0].mean())
    planted = corpus.canaries()
    recited = hits(model, planted.tokens)[:, 8:].mean(1)
    return table | {f"canary {level}": float(recited[planted.copies == level].mean()) for level in corpus.design.copies}


def unmirrored(corpus: Corpus, asked: Queries) -> np.ndarray:
    """Which questions ask for a held-out sum a + b while b + a is held out too, (n,) bool."""
    _, heldout = split_pairs(corpus.design.heldout_pairs, stream(corpus.seed, "addition"))
    table = np.zeros((MODULUS, MODULUS), dtype=bool)
    table[heldout[:, 0], heldout[:, 1]] = True
    sums = np.flatnonzero(asked.group == "addition held out")
    a, b = (asked.tokens[sums, asked.position[sums] - back].numpy() - ids("number")[0] for back in (2, 1))
    mask = np.zeros(len(asked.group), dtype=bool)
    mask[sums] = table[a, b] & table[b, a]
    return mask


def predictions(model: Any, tokens: Tensor) -> Tensor:
    """Most probable next token at every position, (n, T)."""
    output = model(tokens)
    return (output if isinstance(output, Tensor) else output.logits).argmax(-1)


def hits(model: Any, tokens: Tensor) -> np.ndarray:
    """Whether each token after the first is predicted, (n, T - 1) bool."""
    return (predictions(model, tokens)[:, :-1] == tokens[:, 1:]).numpy()


def measure(model: Any, corpus: Corpus, n: int, seed: int) -> dict[str, float]:
    """Held-out excess over the Bayes predictor by kind (nats per token), and accuracies, on `n` sequences of each."""
    excess = excesses(model, corpus, n, seed)
    return {f"excess {name}": value for name, value in excess.items()} | accuracies(model, corpus, n, seed)


def marks(corpus: Corpus, models: dict[str, Any], sample: Sample) -> dict[str, float]:
    """Held-out losses worth drawing beside a degraded model, in nats per token.

    Args:
        corpus: The corpus.
        models: Models by name.
        sample: Held-out sequences.

    Returns:
        "entropy" (exact), each model, and n-gram models n = 1, 2, 3 fitted to the training set. All but the first are
        the exact entropy plus the measured excess over the Bayes predictor.
    """
    entropy, training, tokens = corpus.mean_entropy(), corpus.training().tokens.numpy(), sample.tokens.numpy()
    excess = {name: gap(model, sample)[0] for name, model in models.items()}
    for order in (1, 2, 3):
        nats = ngram_nats(training, tokens, order, len(corpus.vocabulary))
        excess[f"n-gram {order}"] = float((nats - sample.surprisal).mean())
    return {"entropy": entropy} | {name: entropy + value for name, value in excess.items()}


def main() -> None:
    """Record the marks of the shipped models."""
    from transformers import AutoModelForCausalLM

    from studies.organisms.mixture import mixture
    from studies.organisms.mixture.train import RECIPES, build

    torch.set_num_threads(1)
    corpus, larger = mixture.corpus, mixture.folder.parent / "larger"
    folders = {"model": mixture.folder, "larger": larger}
    models = {name: AutoModelForCausalLM.from_pretrained(folder).eval() for name, folder in folders.items()}
    models["untrained"] = build(RECIPES["small"], len(corpus.vocabulary)).eval()
    sample = corpus.heldout(RECORDED, RECORDED_SEED)
    found = {name: round(value, 6) for name, value in marks(corpus, models, sample).items()}
    (mixture.folder / "references.json").write_text(json.dumps(found, indent=1) + "\n")
    nats = sample_nats(models["larger"], sample).astype(np.float32)
    np.savez(larger / "heldout.npz", nats=nats, seed=np.int64(RECORDED_SEED))
    table = pd.DataFrame({name: measure(models[name], corpus, n=2000, seed=3) for name in folders})
    table.round(4).to_csv(mixture.folder / "measured.csv", index_label="measure")
    print(json.dumps(found, indent=1), table, sep="\n")


if __name__ == "__main__":
    main()
