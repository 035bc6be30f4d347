"""Circuit loss: what does a circuit by itself pay for the answers, and what the model that it was found in?

Circuits as in `probes.circuit`, ablation as in `probes.faithfulness`; the loss makes a circuit comparable with degraded
models, which pay for the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.attribution import Method, scores
from probes.circuit import Circuit, of_faithfulness
from probes.corpus import check_pairs
from probes.edges import check_kinds, instead, rewired
from probes.graph import Graph
from probes.hooks import device_of, forked
from probes.pairs import Trial, pairs_of, trial
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.sites import names_of
from probes.tables import stack

BATCH = 64  # rewired sequences a pass
MARGIN = 0.05  # of what the model knows, that the default claim lets the circuit miss


@dataclass(frozen=True, eq=False)
class CircuitLoss:
    """-log p of the right answer when every edge outside a circuit is ablated, and when none is, on the same prompts.

    Kinds of ablation are those of `probes.Faithfulness`. Rows, in nats per answer, all with key `example`:

    - `loss`: of the model; its `chance` is the loss of a uniform guess.
    - `circuit loss`: of each circuit by itself; keys `circuit` (its place among those given), `edges`, `kind`.

    Attributes:
        clean: Token ids, shape (n, T).
        corrupted: Token ids, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        answer: Answer to the clean prompt, shape (n,).
        wrong: Answer to the corrupted prompt, shape (n,).
        circuits: What is left of the model.
        kinds: Of ablation, any of resample, mean, zero.
        guess: Loss of a uniform guess, in nats; None: among the answers that occur, right or wrong.
        draws: How many draws per chain and rung are worth the cost.

    >>> from studies.organisms.induction import induction
    >>> subject = Subject(*induction.load(), induction)
    >>> probe = CircuitLoss.build(subject, n=3, known=0.5)
    >>> table = probe(subject.model).groupby("measure")["value"].mean()
    >>> bool(table["loss"] < table["circuit loss"] < probe.uninformed)
    True
    """

    name: ClassVar[str] = "circuit-loss"
    needs: ClassVar[str] = "a bridge whose q, k and v inputs fork; corpus.pairs or corpus.of_kind (repeat)"
    direction: ClassVar[str] = "noise"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    measures: ClassVar[Mapping[str, Measure]] = {
        name: Measure(chance=None, higher=False, binary=False, unit="nats per answer")
        for name in ("loss", "circuit loss")
    }

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor
    circuits: tuple[Circuit, ...]
    kinds: tuple[str, ...] = ("resample",)
    guess: float | None = None
    draws: int = 4

    def __post_init__(self) -> None:
        """Refuse pairs and settings that do not fit."""
        check_pairs(self.clean, self.corrupted, self.position, self.answer, self.wrong)
        check_kinds(self.kinds)

    @property
    def uninformed(self) -> float:
        """Loss of a uniform guess, in nats."""
        if self.guess is not None:
            return self.guess
        return float(np.log(len(torch.cat([self.answer, self.wrong]).unique())))

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 32,
        seed: int = 0,
        task: str | None = None,
        circuit: str | None = None,
        known: float | Sequence[float] = (0.5, 0.8, 0.95),
        kinds: str | Sequence[str] = ("resample",),
        method: Method = "eap-ig",
        steps: int = 5,
        guess: float | None = None,
        draws: int = 4,
    ) -> Self:
        """Circuits found in the subject's model on `n` pairs, or one that is given, and `n` other pairs to ask about.

        Args:
            subject: What to ask.
            n: Pairs.
            seed: Of the pairs to ask about; circuits are found on those of seed + 1.
            task: See `probes.pairs.pairs_of`.
            circuit: A JSON file; None: circuits are found.
            known: For each of these shares the first of the nested circuits that keeps it of what the model knows:
                loss of the circuit <= loss + (1 - share) (guess - loss), under the first kind of ablation.
            kinds: Of ablation; several may be one string, joined by "+".
            method: How edges are scored, see `probes.attribution`.
            steps: Of the integrated gradients.
            guess: See the field; likewise draws.
            draws: Draws per chain and rung.

        Raises:
            ValueError: If the subject has no corpus with pairs or repeats, its model knows no more than a guess, or a
                setting is unknown or out of range.
        """
        shares = (known,) if isinstance(known, float | int) else tuple(known)
        if not shares or not all(0 < share < 1 for share in shares):
            raise ValueError(f"{cls.name}: known must be shares between 0 and 1, got {known!r}")
        settings: dict[str, Any] = {
            "kinds": names_of(kinds),
            "guess": guess,
            "draws": positive(cls.name, "draws", draws),
        }
        found_on, asked = (_data(pairs_of(subject, cls.name, n, one, task)) for one in (seed + 1, seed))
        if circuit is not None:
            return cls(*asked, (Circuit.from_json(circuit),), **settings)
        circuits = cls(*found_on, (), **settings).found(subject.model, shares, method, steps)
        return cls(*asked, circuits, **settings)

    def found(
        self,
        model: Any,
        known: Sequence[float],
        method: Method = "eap-ig",
        steps: int = 5,
    ) -> tuple[Circuit, ...]:
        """For each share the first nested circuit that keeps it of what the model knows, see `build`; each once."""
        graph = Graph.of(model)
        with torch.no_grad(), forked(model):
            made = trial(model, self)
            own, brought = made.clean.mean().item(), instead(model, graph, made.source, self.kinds[0])
            if not own < self.uninformed:
                raise ValueError(
                    f"{self.name}: the model pays {own:.3g} nats for an answer and a guess {self.uninformed:.3g}, so "
                    "there is nothing that a circuit could explain"
                )
            mean = scores(model, graph, made, method, steps).mean(0)
            paid: dict[Circuit, float] = {}

            def loss(circuit: Circuit) -> float:
                if circuit not in paid:
                    paid[circuit] = float(_losses(model, graph, made, brought, circuit).mean())
                return paid[circuit]

            def first(share: float) -> Circuit:
                most = own + (1 - share) * (self.uninformed - own)
                return of_faithfulness(graph, mean, lambda circuit: loss(circuit) <= most)

            found = [first(share) for share in known]
        return tuple(dict.fromkeys(found))

    def claim(self) -> Claim:
        """The last circuit pays at most 5 % more than the model, in units of what the model knows (guess - loss).

        Raises:
            ValueError: If there is no circuit.
        """
        if not self.circuits:
            raise ValueError("the default claim needs a circuit: use CircuitLoss.build(subject) or give circuits=")
        edges = len(self.circuits[-1].edges)
        statement = f"{edges} edges by themselves lose less than {MARGIN:.0%} of what the model knows ({self.kinds[0]})"
        return Claim(self, statement, self._holds)

    def _holds(self, table: pd.DataFrame) -> bool:
        own = table.loc[table["measure"] == "loss", "value"].mean()
        last = (table["measure"] == "circuit loss") & (table["circuit"] == len(self.circuits) - 1)
        paid = table.loc[last & (table["kind"] == self.kinds[0]), "value"].mean()
        return bool(own < self.uninformed and paid - own <= MARGIN * (self.uninformed - own))

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run the model and every circuit; see the class for the rows."""
        graph = Graph.of(model)
        other = [circuit.graph for circuit in self.circuits if circuit.graph != graph]
        if other or not self.circuits:
            raise ValueError(f"circuits of this model are asked for, one of {graph}; got {other or 'none'}")
        with forked(model):
            made = trial(model, self)
            tables = [_rows("loss", made.clean[:, 0]).assign(chance=self.uninformed)]
            for kind in self.kinds:
                brought = instead(model, graph, made.source, kind)
                for place, circuit in enumerate(self.circuits):
                    paid = _losses(model, graph, made, brought, circuit)
                    tables.append(_rows("circuit loss", paid, circuit=place, edges=len(circuit.edges), kind=kind))
        return stack(tables)


def _data(pairs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong


def _rows(measure: str, value: Tensor, **keys: Any) -> pd.DataFrame:
    return pd.DataFrame({"measure": measure, "value": value.numpy(), "example": np.arange(len(value)), **keys})


def _losses(model: Any, graph: Graph, made: Trial, brought: Tensor, circuit: Circuit) -> Tensor:
    """Loss of every pair with only the circuit's edges intact, shape (n,)."""
    cut, found = graph.present & ~circuit.mask, []
    for rows in torch.arange(len(made.tokens)).split(BATCH):
        with rewired(model, graph, cut.expand(len(rows), -1, -1).to(device_of(model)), brought[rows]):
            found.append(made.measure(model, rows)[:, 0])
    return torch.cat(found)
