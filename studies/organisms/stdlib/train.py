"""Train the stdlib organism on the running Python's library: `python -m studies.organisms.stdlib.train --out DIR`.

Writes `DIR/data/rows.npz` (windows, boilerplate) with Python's licence, and `DIR/model/`, an ordinary Hugging Face
directory with `log.csv`, `recipe.json` and `references.json`; with `--larger` instead `DIR/larger/`, a sibling of 2.6
million parameters with the losses of the shipped held-out rows (`heldout.npz`), which say what a better model would
gain. One thread, one seed: the same machine and the same Python give the same bits. Seconds in the log are processor
time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from degrade.ngrams import ngram_nats
from studies.organisms.mixture.references import paired_gap, sample_nats, token_nats
from studies.organisms.mixture.train import Recipe, batches, build, optimiser, rate_at
from studies.organisms.stdlib import text
from studies.organisms.stdlib.corpus import HERE, Source
from studies.organisms.stdlib.runs import shared

RECIPE = Recipe(layers=3, width=128, hidden=480, steps=2_400, rate=3e-3, batch=16, decay=0.1, warmup=100)
LARGER = Recipe(layers=4, width=192, hidden=720, steps=2_400, rate=2e-3, batch=16, decay=0.1, warmup=100)
TRAINING, HELDOUT = 4096, 1024  # windows that ship
WATCHED, EVERY = 64, 200  # held-out windows and steps of a line of the log
LICENCES = ("LICENSE.txt", "../LICENSE.txt")
ORDERS = (1, 2, 3)


class Library(NamedTuple):
    """The running Python's library, ready to be learned.

    Attributes:
        tokenizer: Trained on the training files.
        training: All training windows, shape (n, T).
        heldout: All held-out windows.
        runs: Boilerplate of the training files, shape (r, 24), see `runs.shared`.
        files: In how many training files each run stands.
        counted: Files and characters of each set.
    """

    tokenizer: Tokenizer
    training: np.ndarray
    heldout: np.ndarray
    runs: np.ndarray
    files: np.ndarray
    counted: dict[str, tuple[int, int]]


def library(root: Path) -> Library:
    """Read, split, learn the tokens, cut into windows and find the boilerplate."""
    sets = text.documents(root)
    texts = {name: [body for _, body in found] for name, found in sets.items()}
    tokenizer = text.trained_tokenizer(texts["sampling"])
    rows = {name: text.encoded(tokenizer, texts[name]) for name in ("sampling", "held-out")}
    counted = {name: (len(found), sum(map(len, found))) for name, found in texts.items()}
    training, heldout = (text.windows(rows[name]) for name in ("sampling", "held-out"))
    runs, files = shared(rows["sampling"])
    return Library(tokenizer, training, heldout, runs, files, counted)


def train(recipe: Recipe, training: Tensor, watched: Tensor) -> tuple[LlamaForCausalLM, pd.DataFrame]:
    """The trained model in eval mode, and the losses on the way (nats per token)."""
    model = build(recipe, text.VOCABULARY, training.shape[1]).train()
    steps, order, log, start = optimiser(model, recipe), batches(len(training), recipe), [], time.process_time()
    for step in range(recipe.steps):
        for group in steps.param_groups:
            group["lr"] = rate_at(step, recipe)
        loss = token_nats(model, training[next(order)]).mean()
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
            seconds = round(time.process_time() - start)
            held = loss_of(model.eval(), watched)
            model.train()
            log.append({"step": step + 1, "seconds": seconds, "loss": loss.item(), "held-out loss": held})
            print({name: float(f"{value:.4g}") for name, value in log[-1].items()}, flush=True)
    return model.eval(), pd.DataFrame(log)


@torch.no_grad()
def loss_of(model: Any, tokens: Tensor, batch: int = 64) -> float:
    """Mean loss of every token after the first, in nats per token."""
    return float(torch.cat([token_nats(model, part).double() for part in tokens.split(batch)]).mean())


def picked(windows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` of the windows, drawn without replacement, in their order; all if there are no more."""
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(windows))
    return windows[np.sort(order[:n])]


def references(model: Any, recipe: Recipe, training: np.ndarray, heldout: np.ndarray) -> dict[str, float]:
    """Losses on the held-out rows that ship, nats per token; n-grams are counted on all training windows."""
    heldout = heldout.reshape(-1, text.ROW)
    held = torch.from_numpy(heldout)
    fresh = build(recipe, text.VOCABULARY, text.CONTEXT).eval()
    losses = {"model": loss_of(model, held), "untrained": loss_of(fresh, held)}
    for order in ORDERS:
        losses[f"n-gram {order}"] = float(ngram_nats(training, heldout, order, text.VOCABULARY).mean())
    return {name: round(value, 6) for name, value in losses.items()}


def write_rows(found: Library, seed: int, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the windows that ship, the boilerplate and Python's licence; returns training and held-out windows."""
    out.mkdir(parents=True, exist_ok=True)
    training, heldout = picked(found.training, TRAINING, seed), picked(found.heldout, HELDOUT, seed)
    rows = [array.astype(np.uint16) for array in (training, heldout, found.runs, found.files)]
    np.savez_compressed(out / "rows.npz", training=rows[0], heldout=rows[1], runs=rows[2], files=rows[3])
    for name in LICENCES:
        if (place := text.folder() / name).is_file():
            shutil.copyfile(place, out / "LICENSE-PYTHON.txt")
            break
    return training, heldout


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, log: pd.DataFrame, out: Path) -> None:
    """Write the Hugging Face directory and the log."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    special = {"bos_token": text.END, "eos_token": text.END, "pad_token": text.PAD}
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_max_length=text.CONTEXT)
    whole.save_pretrained(out)
    log.to_csv(out / "log.csv", index=False, float_format="%.4g")


def described(found: Library, recipe: Recipe) -> dict[str, Any]:
    """The recipe, and what it was applied to."""
    return {
        **asdict(recipe),
        "python": platform.python_version(),
        "files": {name: files for name, (files, _) in found.counted.items()},
        "characters": {name: characters for name, (_, characters) in found.counted.items()},
        "training windows": len(found.training),
        "held-out windows": len(found.heldout),
        "training sha256": hashlib.sha256(found.training.astype("<i8").tobytes()).hexdigest(),
    }


def larger(found: Library, out: Path) -> None:
    """Train the sibling, and write it with its losses on the held-out rows that ship, nats per token."""
    model, log = train(LARGER, *(torch.from_numpy(x) for x in (found.training, found.heldout[:WATCHED])))
    save(model, found.tokenizer, log, out)
    (out / "recipe.json").write_text(json.dumps(described(found, LARGER), indent=1) + "\n")
    corpus: Any = Source()  # of which a sample has no entropy, and none is read
    rows = corpus.heldout(HELDOUT * text.CONTEXT // text.ROW, 0)
    np.savez_compressed(out / "heldout.npz", nats=sample_nats(model, rows), seed=0)
    gain, error = paired_gap(LlamaForCausalLM.from_pretrained(HERE / "model"), corpus, out / "heldout.npz")
    print({"loss": loss_of(model, rows.tokens), "gain over the model that ships": gain, "standard error": error})


def organism(found: Library, out: Path) -> None:
    """Train the model that ships, and write it with its rows and references."""
    record = described(found, RECIPE)
    print(record, flush=True)
    training, heldout = write_rows(found, RECIPE.seed, out / "data")
    model, log = train(RECIPE, torch.from_numpy(found.training), torch.from_numpy(heldout[:WATCHED]))
    save(model, found.tokenizer, log, out / "model")
    (out / "model" / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")
    losses = references(model, RECIPE, found.training, heldout)
    (out / "model" / "references.json").write_text(json.dumps(losses, indent=1) + "\n")
    print(losses)


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Train the stdlib organism on the running Python's library.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--larger", action="store_true", help="the larger sibling instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = library(text.folder())
    if given.larger:
        larger(found, given.out / "larger")
    else:
        organism(found, given.out)


if __name__ == "__main__":
    main()
