"""Train a small organism and write what ships; each `studies/organisms/NAME/train.py` says with which recipe.

Writes an ordinary Hugging Face directory (config, safetensors, tokenizer), `log.csv`, `recipe.json` and
`references.json`. One thread, one seed: the same machine gives the same bits. Seconds in the log are processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from degrade.ngrams import ngram_nats
from studies.organisms import Organism
from studies.organisms.mixture.references import columns, gap
from studies.organisms.mixture.train import Recipe, batches, build, optimiser, rate_at, tokenizer

RECORDED, RECORDED_SEED = 2000, 2026
Measured = Callable[[Any], dict[str, float]]


def scored_nats(model: Any, tokens: Tensor, scored: tuple[int, ...] | None) -> Tensor:
    """Mean of -log p over the scored tokens of a batch, in nats; the last token is not read, nothing follows it."""
    logits = model(tokens[:, :-1]).logits[:, columns(scored)]
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:][:, columns(scored)].flatten())


class Before(NamedTuple):
    """Text to train on first, every token scored, for some of the steps of the recipe."""

    tokens: Tensor
    steps: int


def train(
    organism: Organism,
    recipe: Recipe,
    measured: Measured,
    out: Path,
    every: int = 50,
    before: Before | None = None,
) -> LlamaForCausalLM:
    """Train a model on an organism's training set, and measure every `every` steps.

    Args:
        organism: Names the corpus and the scored tokens.
        recipe: Architecture and schedule.
        measured: What the log says of a model in eval mode, beside the loss of the last batch.
        out: Directory to write.
        every: Steps between two lines of the log.
        before: What to train on first, if anything.

    Returns:
        The trained model in eval mode.
    """
    corpus, log, start = organism.corpus, [], time.process_time()
    phases = [(corpus.training().tokens, recipe.steps, organism.scored)]
    if before is not None:
        phases.insert(0, (before.tokens, before.steps, None))
    model = build(recipe, len(corpus.vocabulary), corpus.length).train()
    steps, orders = optimiser(model, recipe), [batches(len(tokens), recipe) for tokens, _, _ in phases]
    for step in range(recipe.steps):
        phase = sum(step >= end for _, end, _ in phases)
        tokens, _, scored = phases[phase]
        for group in steps.param_groups:
            group["lr"] = rate_at(step, recipe)
        loss = scored_nats(model, tokens[next(orders[phase])], scored)
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            seconds = round(time.process_time() - start)
            log.append({"step": step + 1, "seconds": seconds, "loss": loss.item(), **measured(model.eval())})
            print({key: float(f"{value:.3g}") for key, value in log[-1].items()}, flush=True)
            model.train()
    extra = {} if before is None else {"steps before": before.steps}
    save(model.eval(), organism, {**asdict(recipe), **extra}, out, pd.DataFrame(log))
    (out / "references.json").write_text(json.dumps(references(organism, recipe, model), indent=1) + "\n")
    return model


def save(model: LlamaForCausalLM, organism: Organism, recipe: dict[str, Any], out: Path, log: pd.DataFrame) -> None:
    """Write the Hugging Face directory, the log and the recipe."""
    corpus = organism.corpus
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer(corpus.vocabulary, corpus.length).save_pretrained(out)
    log.to_csv(out / "log.csv", index=False, float_format="%.4g")
    record = {**recipe, "corpus seed": corpus.seed, "corpus sha256": corpus.fingerprint()}
    (out / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def references(organism: Organism, recipe: Recipe, model: Any) -> dict[str, float]:
    """Held-out losses worth drawing beside a degraded model, in nats per scored token.

    Args:
        organism: Names the corpus and the scored tokens.
        recipe: Architecture of the untrained model.
        model: The trained model.

    Returns:
        "entropy" (exact), "model", "untrained", and, where every token is scored, n-gram models n = 1, 2, 3 fitted to
        the training set. All but the first are the exact entropy plus the measured excess over the Bayes predictor.
    """
    corpus, scored = organism.corpus, organism.scored
    sample, entropy = corpus.heldout(RECORDED, RECORDED_SEED), corpus.mean_entropy()
    untrained = build(recipe, len(corpus.vocabulary), corpus.length).eval()
    excess = {"model": gap(model, sample, scored)[0], "untrained": gap(untrained, sample, scored)[0]}
    if scored is None:
        counted = corpus.training().tokens.numpy()
        for order in (1, 2, 3):
            nats = ngram_nats(counted, sample.tokens.numpy(), order, len(corpus.vocabulary))
            excess[f"n-gram {order}"] = float((nats - sample.surprisal).mean())
    return {"entropy": round(entropy, 6)} | {name: round(entropy + value, 6) for name, value in excess.items()}


def command(organism: Organism, recipe: Recipe, measured: Measured, before: Before | None = None) -> None:
    """Command line of an organism's training script."""
    parser = argparse.ArgumentParser(description=f"Train the {organism.name} organism.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    train(organism, recipe, measured, out, before=before)
