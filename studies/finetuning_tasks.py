"""What a model is finetuned on, and the mixture of it with the base data that a ladder's potential is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degrade.losses import IGNORED

CHAIN = "chain"
STATES, SHARPNESS = 24, 1.5
PURPOSES = ("training", "heldout", "table", "rows")


@dataclass(frozen=True, eq=False)
class Task:
    """A narrow task of an organism's words.

    Attributes:
        name: As asked for.
        training: Examples to finetune on, as `degrade.next_token_loss` reads them.
        heldout: Fresh examples of the same law.
        base: Held-out examples of the organism's own corpus.
        others: Those among them that are not of the task's kind: what lies outside the task.
    """

    name: str
    training: Any
    heldout: Any
    base: Any
    others: Any


def open_task(organism: Any, name: str | None, rows: int, heldout: int, seed: int) -> Task:
    """A task by name.

    `KIND` is fresh text of one kind of the corpus; `KIND@WORLD` the same under the tables that another seed of the
    corpus draws (other facts, other Markov tables); `chain` a first-order Markov text on 24 of the organism's words,
    which every organism has.

    Args:
        organism: With a corpus.
        name: Which task; None: `story` if the corpus has that kind, else `chain`.
        rows: Examples to train on.
        heldout: Held-out examples of the task, and of the base corpus.
        seed: Of the examples.

    Raises:
        ValueError: If the corpus has no such kind.
    """
    corpus = organism.corpus
    sample = corpus.heldout(heldout, entropy(seed, "heldout"))
    kinds = np.asarray(sample.kind)
    if name is None:
        name = "story" if hasattr(corpus, "of_kind") and "story" in kinds else CHAIN
    kind, _, world = name.partition("@")
    if name == CHAIN:
        texts = (_chain(corpus, count, seed, purpose) for count, purpose in _parts(rows, heldout))
        train, held = ({"input_ids": one, "labels": one} if organism.scored else one for one in texts)
        outside = np.ones(len(kinds), bool)
    else:
        law = _law(corpus, kind, world, name)
        drawn = (law.of_kind(kind, count, entropy(seed, purpose)).tokens for count, purpose in _parts(rows, heldout))
        train, held = (organism.examples(tokens) for tokens in drawn)
        outside = kinds != kind if not world and (kinds != kind).any() else np.ones(len(kinds), bool)
    others = sample.tokens[torch.from_numpy(np.flatnonzero(outside))]
    return Task(name, train, held, organism.examples(sample.tokens), organism.examples(others))


def mixture(base: Any, task: Any, rows: int, seed: int) -> Any:
    """Base and task examples with equally many scored tokens of each.

    Args:
        base: Examples of the base corpus, of which a random subset is taken.
        task: Examples of the task.
        rows: Most examples of either.
        seed: Of the choice.
    """
    unit = {"base": scored(base) / size(base), "task": scored(task) / size(task)}
    tokens = min(min(rows, size(base)) * unit["base"], min(rows, size(task)) * unit["task"])
    rng = np.random.default_rng(entropy(seed, "rows"))
    parts = [
        take(part, np.sort(rng.permutation(size(part))[: max(1, round(tokens / unit[name]))]))
        for name, part in (("base", base), ("task", task))
    ]
    return joined(*parts)


def size(examples: Any) -> int:
    """Number of examples.

    >>> size({"input_ids": torch.zeros(3, 2), "labels": torch.zeros(3, 2)})
    3
    """
    return len(next(iter(examples.values())) if isinstance(examples, Mapping) else examples)


def scored(examples: Any) -> int:
    """Number of scored tokens.

    >>> scored(torch.zeros(3, 5))
    12
    """
    if isinstance(examples, Mapping):
        return int((examples["labels"][:, 1:] != IGNORED).sum())
    return int(examples[:, 1:].numel())


def take(examples: Any, index: np.ndarray) -> Any:
    """Some of the examples, in the given order."""
    rows = torch.from_numpy(index)
    if isinstance(examples, Mapping):
        return {name: part[rows] for name, part in examples.items()}
    return examples[rows]


def joined(first: Any, second: Any) -> Any:
    """Examples one after the other."""
    if isinstance(first, Mapping):
        return {name: torch.cat([part, second[name]]) for name, part in first.items()}
    return torch.cat([first, second])


def entropy(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose."""
    return int(np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose),)).generate_state(1)[0])


def _parts(rows: int, heldout: int) -> tuple[tuple[int, str], tuple[int, str]]:
    return (rows, "training"), (heldout, "heldout")


def _law(corpus: Any, kind: str, world: str, name: str) -> Any:
    known = sorted(set(corpus.training().kind)) if hasattr(corpus, "of_kind") else []
    if kind not in known or (world and not world.isdigit()):
        kinds = [one for kind in known for one in (kind, f"{kind}@1")]
        raise ValueError(f"unknown task {name!r}; those of this organism are {', '.join([CHAIN, *kinds])}")
    return replace(corpus, seed=int(world)) if world else corpus


def _chain(corpus: Any, n: int, seed: int, purpose: str) -> Tensor:
    """`n` sequences of Markov text on words that occur in training, each opened as the training sequences are."""
    from studies.organisms.mixture.kinds import Chain
    from studies.organisms.mixture.language import softmax_table

    tokens = corpus.training().tokens
    words = np.unique(tokens[:, 1:].numpy())
    states = words[:: max(1, len(words) // STATES)][:STATES]
    table = softmax_table((len(states),) * 2, SHARPNESS, np.random.default_rng(entropy(seed, "table")))
    body = Chain(states, table, tokens.shape[1] - 1).draw(n, np.random.default_rng(entropy(seed, purpose)))
    return torch.cat([tokens[:1, :1].expand(n, 1), torch.from_numpy(body)], dim=1)
