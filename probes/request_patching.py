"""Request patching: is what is asked for read first, and answered from the context only later?

Variengien & Winsor 2023, "Look Before You Leap" (arXiv 2312.10091): the state of the last token, taken after l blocks
from a run on (C1, R1), is put into a run on another context with another request, (C2, R2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import Requests, check_entries, check_places, check_tokens
from probes.hooks import device_of, record, replaced, require_bridge, require_known
from probes.orion import TASKS, stories
from probes.predictions import BATCH, logits_at
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

READINGS = ("R2(C2)", "R1(C2)", "R1(C1)")
REACHED = 0.8  # normalised probability that L1 and L3 ask for, as in the paper's code
MOVED = 0.7  # normalised probability and accuracy of the default claim: the paper's abstract, and its choice of tasks


class Answered(NamedTuple):
    """Log probabilities in nats and hits of the three readings, each of shape (n, 3)."""

    nats: Tensor
    hit: Tensor


@dataclass(frozen=True, eq=False)
class RequestPatching:
    """Put the last token's residual stream of a source run into a target run, layer by layer, and read three answers.

    Layer l means the stream after l blocks: 0 the embeddings, n_layers what the last norm reads. R(C) is the answer to
    request R in context C. In the patched run R2(C2) is read where the patch had no effect, R1(C2) where the request
    and nothing else was moved, R1(C1) where the answer was moved. Rows:

    - `baseline`: P(R(C)) without a patch; `accuracy`: 1 if it has the largest logit, else 0; `loss`: -log P(R(C)), nats
      per answer. Keys `example`, `prompt` ("source" or "target").
    - `R2(C2)`, `R1(C2)`, `R1(C1)`: probability in the patched run; keys `example`, `layer`. R1(C2) at layer `best` is
      the behaviour "request moved".
    - `moved accuracy`: 1 if R1(C2) has the largest logit in the patched run, else 0; keys `example`, `layer`.
    - `patched loss`: -log P(R1(C2)) in the patched run, nats per answer; keys `example`, `layer`. At the best layer it
      is the loss of the interpretation "read the request, then look it up in any context": to be compared with `loss`,
      and with how much the model's own loss has risen.
    - `normalised R2(C2)`, `normalised R1(C2)`, `normalised R1(C1)`: mean probability over pairs, divided by the mean
      `baseline` (the paper's normalisation, whose random level is 0 for probabilities); key `layer`.
    - `L1`: the last layer at which normalised R2(C2) > 0.8 (-1 if there is none); `L2`: the layer with the highest
      normalised R1(C2); `L3`: the first layer at which normalised R1(C1) > 0.8 (n_layers + 1 if there is none).

    Attributes:
        requests: The pairs.
        layers: "all", or layers to patch.
        best: The layer L2 found at w* by `build`.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> from probes.orion import Pairs
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=2, n_ctx=4, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> one = torch.tensor([3])
    >>> pairs = Pairs(torch.tensor([[0, 1, 2, 8]]), one, torch.tensor([[3, 4, 5, 8]]), one,
    ...     torch.tensor([4]), torch.tensor([3]), torch.tensor([1]), np.array([0.25]))
    >>> table = RequestPatching(pairs)(model)
    >>> moved = table[(table.measure == "R1(C1)") & (table.layer == 2)].value.item()
    >>> moved == table[(table.measure == "baseline") & (table["prompt"] == "source")].value.item()
    True
    """

    name: ClassVar[str] = "request-patching"
    needs: ClassVar[str] = "a bridge; corpus.requests, or task= and a tokenizer"
    measures: ClassVar[Mapping[str, Measure]] = {
        **{name: Measure(chance=None, higher=True, binary=False, unit="share") for name in ("baseline", *READINGS)},
        **{
            name: Measure(chance=None, higher=True, binary=True, unit="share")
            for name in ("accuracy", "moved accuracy")
        },
        **{
            name: Measure(chance=None, higher=False, binary=False, unit="nats per answer")
            for name in ("loss", "patched loss")
        },
        **{f"normalised {name}": Measure(chance=0.0, higher=True, binary=False, unit="share") for name in READINGS},
        **{name: Measure(chance=None, higher=True, binary=False, unit="layers") for name in ("L1", "L2", "L3")},
    }

    requests: Requests
    layers: str | tuple[int, ...] = "all"
    best: int | None = None

    def __post_init__(self) -> None:
        """Refuse pairs that do not fit together or whose answers cannot be told apart, and layers that are none."""
        asked = self.requests
        for name, tokens in (("source", asked.source), ("target", asked.target)):
            check_tokens(name, tokens, least=1)
        check_places("source_position", asked.source_position, asked.source)
        check_places("target_position", asked.target_position, asked.target)
        answers = {name: getattr(asked, name) for name in ("target_answer", "moved", "source_answer", "chance")}
        check_entries(len(asked.source), "pair", target_position=asked.target_position, **answers)
        three = torch.stack([asked.target_answer, asked.moved, asked.source_answer])
        same = (three[[0, 0, 1]] == three[[1, 2, 2]]).any(0).nonzero().flatten().tolist()
        if same:
            raise ValueError(
                f"pairs {same} of {three.shape[1]} have two equal answers among R2(C2), R1(C2) and R1(C1), so that "
                "no reading can tell what was moved: give pairs with three different answers"
            )
        if isinstance(self.layers, str) and self.layers != "all":
            raise ValueError(f"unknown layers {self.layers!r}; expected 'all' or layers as whole numbers")

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 64,
        seed: int = 0,
        layers: str | int | Sequence[int] = "all",
        task: str | None = None,
    ) -> Self:
        """Request patching on the organism's own pairs, or on an English task written for the subject's tokenizer.

        Args:
            subject: What to ask; the layer L2 of its model is what the default claim is about.
            n: Pairs.
            seed: Of the pairs.
            layers: "all", or which numbers of blocks to patch after.
            task: One of `probes.orion.TASKS`; None: the organism's `requests`.

        Raises:
            ValueError: If there is neither a corpus with `requests` nor a task and a tokenizer, or a setting is unknown
                or out of range.
        """
        positive(cls.name, "n", n)
        words = subject.tokenizer
        pairs = _corpus(subject).requests(n, seed) if task is None else stories(words, task, n=n, seed=seed)
        chosen = layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)
        probe = cls(pairs, chosen)
        return replace(probe, best=int(_value(probe(subject.model), "L2")))

    def claim(self) -> Claim:
        """The request alone is moved at the same layer as at w*: L2 is unchanged, with normalised R1(C2) >= 0.7.

        The paper reports at least 0.7 for 98 of 106 pairs of a model and a task, among those answered at more than 0.7;
        the claim asks for that too: without a patch at least 0.7 of the requests are answered.

        Raises:
            ValueError: If the layer is unknown.
        """
        if self.best is None:
            raise ValueError(
                "the default claim needs the layer found at w*: use RequestPatching.build(subject) or give best="
            )
        return Claim(self, f"the request is moved after {self.best} blocks, normalised R1(C2) >= {MOVED}", self._holds)

    def _holds(self, table: pd.DataFrame) -> bool:
        answered = table.loc[table["measure"] == "accuracy", "value"].mean()
        moved = table[(table["measure"] == "normalised R1(C2)") & (table["layer"] == self.best)]["value"].max()
        return bool(answered >= MOVED and moved >= MOVED and _value(table, "L2") == self.best)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run both prompts and every patch; see the class for the rows."""
        require_bridge(model, self.name)
        hooks, asked = self._hooks(model), self.requests
        require_known(model, torch.stack([asked.target_answer, asked.moved, asked.source_answer], dim=1))
        states = self._states(model, list(hooks.values()))
        source = self._read(logits_at(model, asked.source, asked.source_position))
        target = self._read(logits_at(model, asked.target, asked.target_position))
        tables = [_unpatched("source", source, 2), _unpatched("target", target, 0)]
        baseline = torch.cat([source.nats[:, 2], target.nats[:, 0]]).exp().mean().item()
        patched = {layer: self._patched(model, hook, states[hook]) for layer, hook in hooks.items()}
        tables += [self._layer(layer, found) for layer, found in patched.items()]
        shares = {
            layer: found.nats.exp().mean(0) / max(baseline, np.finfo(float).tiny) for layer, found in patched.items()
        }
        return stack([*tables, _normalised(shares), _milestones(shares, model.cfg.n_layers)])

    def _hooks(self, model: Any) -> dict[int, str]:
        """Hook of the stream after each of the layers asked for."""
        last = model.cfg.n_layers
        layers = range(last + 1) if isinstance(self.layers, str) else self.layers
        asked = [*layers, *([] if self.best is None else [self.best])]
        outside = [layer for layer in asked if not 0 <= layer <= last]
        if outside or not layers:
            raise ValueError(f"layers must lie in 0..{last} (blocks passed) for this model, got {outside or layers}")
        return {
            layer: f"blocks.{layer}.hook_resid_pre" if layer < last else f"blocks.{last - 1}.hook_resid_post"
            for layer in layers
        }

    def _states(self, model: Any, hooks: list[str]) -> dict[str, Tensor]:
        """The stream at the last token of every source, by hook, each of shape (n, d)."""
        kept: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        for tokens, place in zip(*(part.split(BATCH) for part in self._sources()), strict=True):
            _, found = record(model, tokens, hooks)
            for hook, activation in found.items():
                kept[hook].append(activation[torch.arange(len(tokens)), place.to(activation.device)])
        return {hook: torch.cat(parts) for hook, parts in kept.items()}

    def _sources(self) -> tuple[Tensor, Tensor]:
        return self.requests.source, self.requests.source_position

    def _patched(self, model: Any, hook: str, states: Tensor) -> Answered:
        asked = self.requests
        parts = (asked.target.split(BATCH), asked.target_position.split(BATCH), states.split(BATCH))
        scores = []
        for tokens, place, state in zip(*parts, strict=True):
            rows = torch.arange(len(tokens), device=device_of(model))
            with replaced(model, hook, rows, place.to(rows.device), state):
                scores.append(logits_at(model, tokens, place))
        return self._read(torch.cat(scores))

    def _read(self, scores: Tensor) -> Answered:
        asked = self.requests
        answers = torch.stack([asked.target_answer, asked.moved, asked.source_answer], dim=1).cpu()
        nats = scores.double().log_softmax(-1).gather(1, answers)
        return Answered(nats, scores.argmax(-1)[:, None] == answers)

    def _layer(self, layer: int, found: Answered) -> pd.DataFrame:
        values = dict(zip(READINGS, found.nats.exp().T, strict=True))
        values |= {"moved accuracy": found.hit[:, 1].double(), "patched loss": -found.nats[:, 1]}
        parts = [_rows(name, value, layer=layer) for name, value in values.items()]
        if layer == self.best:
            parts[1] = parts[1].assign(behaviour="request moved", chance=np.asarray(self.requests.chance))
        return stack(parts)


def _rows(measure: str, value: Tensor, **keys: Any) -> pd.DataFrame:
    return pd.DataFrame({"measure": measure, "value": value.numpy(), "example": np.arange(len(value)), **keys})


def _unpatched(prompt: str, found: Answered, reading: int) -> pd.DataFrame:
    nats, hit = found.nats[:, reading], found.hit[:, reading]
    values = {"baseline": nats.exp(), "accuracy": hit.double(), "loss": -nats}
    return stack([_rows(name, value, prompt=prompt) for name, value in values.items()])


def _normalised(shares: Mapping[int, Tensor]) -> pd.DataFrame:
    cells = [
        {"measure": f"normalised {name}", "value": float(value), "layer": layer}
        for layer, values in shares.items()
        for name, value in zip(READINGS, values, strict=True)
    ]
    return pd.DataFrame(cells)


def _milestones(shares: Mapping[int, Tensor], last: int) -> pd.DataFrame:
    """L1, L2 and L3; see the class."""
    kept = [layer for layer, values in shares.items() if values[0] > REACHED]
    come = [layer for layer, values in shares.items() if values[2] > REACHED]
    best = max(shares, key=lambda layer: float(shares[layer][1]))
    found = {"L1": max(kept, default=-1), "L2": best, "L3": min(come, default=last + 1)}
    return pd.DataFrame({"measure": list(found), "value": [float(layer) for layer in found.values()]})


def _value(table: pd.DataFrame, measure: str) -> float:
    return float(table.loc[table["measure"] == measure, "value"].iloc[0])


def _corpus(subject: Subject) -> Any:
    try:
        return subject.corpus(RequestPatching.name, "requests")
    except ValueError as error:
        raise ValueError(f"{error}; or give task= one of {', '.join(TASKS)}") from None
