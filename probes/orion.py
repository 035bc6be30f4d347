"""Small retrieval tasks in English for any tokenizer, after ORION (Variengien & Winsor 2023, arXiv 2312.10091).

A context gives each of several attributes a value; a request asks for one of them. All values are single tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NAMES = ("Alice", "Bob", "Carol", "David", "Emma", "Frank", "Henry", "Jack", "Kate", "Laura", "Mary", "Paul")
CITIES = ("Paris", "London", "Berlin", "Madrid", "Rome", "Moscow", "Boston", "Chicago", "Dublin", "Vienna")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "pink", "grey", "purple")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Pairs(NamedTuple):
    """n pairs of a source (C1, R1) and a target (C2, R2); see `probes.corpus.Requests` for the fields."""

    source: Tensor
    source_position: Tensor
    target: Tensor
    target_position: Tensor
    target_answer: Tensor
    moved: Tensor
    source_answer: Tensor
    chance: np.ndarray


@dataclass(frozen=True)
class Task:
    """How contexts and requests are written.

    Attributes:
        values: Words for each attribute.
        sentences: A sentence for each attribute, with the place {value}.
        questions: Ways to ask for each attribute.
        text: The prompt, with the places {context} and {question}; the answer is the word that follows it.
    """

    values: Mapping[str, Sequence[str]]
    sentences: Mapping[str, str]
    questions: Mapping[str, Sequence[str]]
    text: str

    def write(self, said: Mapping[str, str], order: Sequence[str], question: str) -> str:
        """The prompt in which each attribute has the value said, in this order, and this question is asked."""
        context = " ".join(self.sentences[name].format(value=said[name]) for name in order)
        return self.text.format(context=context, question=question)


_STORY: dict[str, Any] = {
    "values": {"name": NAMES, "city": CITIES, "day": DAYS, "colour": COLOURS},
    "sentences": {
        "name": "The hero of the story is {value}.",
        "city": "All of it happened in {value}.",
        "day": "It began on a {value}.",
        "colour": "The door of the house was {value}.",
    },
    "questions": {
        "name": ("Who is the hero of the story?", "What is the name of the hero?"),
        "city": ("In which city did it happen?", "Where did all of it happen?"),
        "day": ("On which day did it begin?", "When did the story begin?"),
        "colour": ("Which colour was the door?", "What was the colour of the door?"),
    },
}
_NAMED = ("width", "height", "depth", "weight")
TASKS: dict[str, Task] = {
    "stories": Task(**_STORY, text="Story: {context}\nQuestion: {question}\nAnswer: the answer is"),
    "question first": Task(**_STORY, text="Question: {question}\nStory: {context}\nAnswer: the answer is"),
    "variables": Task(
        values={name: NUMBERS for name in _NAMED},
        sentences={name: f"The {name} is {{value}}." for name in _NAMED},
        questions={name: (f"the {name}",) for name in _NAMED},
        text="{context} So {question} is",
    ),
}


def stories(tokenizer: Any, task: str | Task = "stories", *, n: int = 64, seed: int = 0) -> Pairs:
    """`n` pairs of prompts whose requests differ, R1(C1), R1(C2) and R2(C2) three different tokens.

    Values that are no single known token behind the prompt are left out. Prompts are filled up behind their end with
    their last token, which a causal model does not see before the answer.

    Args:
        tokenizer: A Hugging Face tokenizer.
        task: One of `TASKS`, or a task of your own.
        n: Pairs.
        seed: The same seed gives the same pairs.

    Returns:
        The pairs; `chance` is a uniform guess among the values of R1.

    Raises:
        ValueError: If there is no tokenizer or no such task, or an attribute has fewer than three usable values.
    """
    if tokenizer is None:
        raise ValueError("this task is written in words and needs a tokenizer, got None: give Subject(tokenizer=...)")
    if isinstance(task, str) and task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    chosen = TASKS[task] if isinstance(task, str) else task
    usable = {name: single_tokens(tokenizer, words) for name, words in chosen.values.items()}
    short = {name: list(words) for name, words in usable.items() if len(words) < 3}
    if short:
        raise ValueError(
            f"the attributes {', '.join(short)} need three values that are single tokens of this tokenizer, and have "
            f"{short}: give a Task with values from its vocabulary"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return _stacked([_pair(tokenizer, chosen, usable, rng) for _ in range(n)])


def single_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Token id of each of those words that is one known token behind another word."""
    bare = _ids(tokenizer, "is")
    found: dict[str, int] = {}
    for word in words:
        ids = _ids(tokenizer, f"is {word}")
        if ids[:-1] == bare and ids[-1] != tokenizer.unk_token_id:
            found[word] = ids[-1]
    return found


class _Row(NamedTuple):
    source: list[int]
    target: list[int]
    answers: list[int]  # R2(C2), R1(C2), R1(C1)
    chance: float


def _pair(tokenizer: Any, task: Task, usable: Mapping[str, Mapping[str, int]], rng: np.random.Generator) -> _Row:
    """One pair, drawn again until its three answers differ."""
    names = list(usable)
    while True:
        first, second = (names[i] for i in rng.permutation(len(names))[:2])
        contexts = [{name: str(rng.choice(list(words))) for name, words in usable.items()} for _ in range(2)]
        said = (contexts[1][second], contexts[1][first], contexts[0][first])
        answers = [usable[name][word] for name, word in zip((second, first, first), said, strict=True)]
        if len(set(answers)) == 3:
            break
    prompts = []
    for context, asked in zip(contexts, (first, second), strict=True):
        order = [names[i] for i in rng.permutation(len(names))]
        prompts.append(_ids(tokenizer, task.write(context, order, str(rng.choice(task.questions[asked]))), True))
    return _Row(prompts[0], prompts[1], answers, 1 / len(usable[first]))


def _ids(tokenizer: Any, text: str, opening: bool = False) -> list[int]:
    """Token ids of a text, behind the opening token if there is to be one and the tokenizer uses one."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    start = tokenizer.bos_token_id
    uses = opening and start is not None and list(tokenizer(text)["input_ids"])[:1] == [start]
    return [start, *ids] if uses else ids


def _stacked(rows: Sequence[_Row]) -> Pairs:
    source, source_position = _filled([row.source for row in rows])
    target, target_position = _filled([row.target for row in rows])
    right, moved, carried = torch.tensor([row.answers for row in rows]).T
    chance = np.array([row.chance for row in rows])
    return Pairs(source, source_position, target, target_position, right, moved, carried, chance)


def _filled(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Prompts of one length, and where they end."""
    longest = max(len(ids) for ids in prompts)
    tokens = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in prompts]
    return torch.tensor(tokens), torch.tensor([len(ids) - 1 for ids in prompts])
