"""Train the models of the mixture organism: `python -m studies.organisms.mixture.train --size small --out DIR`.

Writes an ordinary Hugging Face directory (config, safetensors, tokenizer) and `log.csv`; with `--checkpoints DIR` also
the model on its way, at steps that double. One thread, one seed: the same machine gives the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from studies.organisms.mixture.corpus import Corpus
from studies.organisms.mixture.references import measure, token_nats
from studies.organisms.mixture.vocabulary import VOCABULARY


@dataclass(frozen=True)
class Recipe:
    """Architecture and schedule.

    Attributes:
        layers: Transformer layers.
        width: d_model; four heads.
        hidden: Width of the gated MLP.
        steps: Steps of AdamW (beta 0.9, 0.98) with cosine decay after `warmup` steps.
        rate: Peak learning rate.
        batch: Sequences a step.
        decay: Weight decay, on matrices only.
        warmup: Steps of linear warm-up.
        spread: Standard deviation of the initial matrices.
        seed: Seed of the initial weights and of the order of the batches.
        fresh: Number of fresh sequences to train on instead of the training set; they hold no canaries. 0: none.
    """

    layers: int = 2
    width: int = 64
    hidden: int = 96
    steps: int = 6_000
    rate: float = 3e-3
    batch: int = 64
    decay: float = 0.5
    warmup: int = 200
    spread: float = 0.04
    seed: int = 0
    fresh: int = 0


FRESH_SEED = 1_000_003
CHECKPOINTS = 7
RECIPES = {
    "small": Recipe(),
    "large": Recipe(layers=3, width=128, hidden=256, rate=2e-3, steps=5_000, decay=0.1, fresh=384_000),
}


def build(recipe: Recipe, vocabulary: int, length: int = 32) -> LlamaForCausalLM:
    """An untrained model: normal matrices of sd `spread`, unit norms, untied embeddings, as many k/v heads as heads."""
    heads = 4
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(recipe.seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, recipe.spread, generator=generator)
    return model


def tokenizer(vocabulary: Sequence[str] = VOCABULARY, length: int = 32) -> PreTrainedTokenizerFast:
    """One token a word, words separated by spaces; `<unk>` and `<pad>` are among the words."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, model_max_length=length)


def batches(rows: int, recipe: Recipe) -> Iterator[Tensor]:
    """Row numbers of each batch: epochs without replacement, the last incomplete batch of an epoch left out."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    while True:
        order = torch.randperm(rows, generator=generator)
        yield from order[: rows - rows % recipe.batch].view(-1, recipe.batch)


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate: linear warm-up, then a cosine from the peak to 1 % of it."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def optimiser(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    settings = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(settings, lr=recipe.rate, betas=(0.9, 0.98), fused=True)


def checkpoint_steps(steps: int) -> list[int]:
    """The steps at which the model is kept on its way: the last one halved, again and again, seven times.

    >>> checkpoint_steps(6000)
    [46, 93, 187, 375, 750, 1500, 3000]
    """
    return [steps // 2**k for k in range(CHECKPOINTS, 0, -1) if steps // 2**k]


def train(
    recipe: Recipe, corpus: Corpus, out: Path, every: int = 1000, checkpoints: Path | None = None
) -> LlamaForCausalLM:
    """Train, measure every `every` steps, and write the model after each measurement.

    Args:
        recipe: Architecture and schedule.
        corpus: Where the training set comes from.
        out: Directory for the model and `log.csv`.
        every: Steps between two lines of the log.
        checkpoints: Directory for the model at `checkpoint_steps`, which changes nothing else; None: none is kept.

    Returns:
        The trained model in eval mode.
    """
    tokens = corpus.heldout(recipe.fresh, FRESH_SEED).tokens if recipe.fresh else corpus.training().tokens
    model = build(recipe, len(corpus.vocabulary)).train()
    steps = optimiser(model, recipe)
    order, log, start = batches(len(tokens), recipe), [], time.perf_counter()
    due = set() if checkpoints is None else set(checkpoint_steps(recipe.steps))
    for step in range(recipe.steps):
        for group in steps.param_groups:
            group["lr"] = rate_at(step, recipe)
        loss = token_nats(model, tokens[next(order)]).mean()
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        if checkpoints is not None and step + 1 in due:
            keep(model, checkpoints / f"step-{step + 1:05d}")
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            model.eval()
            seconds = time.perf_counter() - start
            log.append(
                {"step": step + 1, "seconds": round(seconds), "loss": loss.item(), **measure(model, corpus, 500, 1)}
            )
            save(model, out, pd.DataFrame(log))
            describe(recipe, corpus, out)
            print({key: round(value, 3) for key, value in log[-1].items()}, flush=True)
            model.train()
    return model.eval()


def save(model: LlamaForCausalLM, out: Path, log: pd.DataFrame) -> None:
    """Write the Hugging Face directory and the log."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer().save_pretrained(out)
    log.round(4).to_csv(out / "log.csv", index=False)


def keep(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a checkpoint: a Hugging Face directory whose weights are rounded to half precision (2^-11 of each)."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def describe(recipe: Recipe, corpus: Corpus, out: Path) -> None:
    """Write `recipe.json`: the recipe, and the fingerprint of the training set it was applied to."""
    record = {**asdict(recipe), "corpus seed": corpus.seed, "corpus sha256": corpus.fingerprint()}
    (out / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Train a model of the mixture organism.")
    parser.add_argument("--size", choices=tuple(RECIPES), default="small")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path)
    for name in ("layers", "width", "hidden", "steps", "seed"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("rate", "decay"):
        parser.add_argument(f"--{name}", type=float)
    given = vars(parser.parse_args())
    recipe, out, checkpoints = RECIPES[given.pop("size")], given.pop("out"), given.pop("checkpoints")
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    train(recipe, Corpus(), out, checkpoints=checkpoints)


if __name__ == "__main__":
    main()
