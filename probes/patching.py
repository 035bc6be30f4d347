"""Activation patching: where, and from which layer on, does the answer travel through the network?

After Meng et al. 2022 (arXiv 2202.05262) and Heimersheim & Nanda 2024 (arXiv 2404.15255), whose terms are used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_pairs
from probes.effects import effect, means, recovery, unpatched
from probes.hooks import require_bridge
from probes.metrics import check_metrics, measures_of, named
from probes.pairs import Trial, check_direction, pairs_of, trial
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.sites import SITES, Patch, activations, check_model, check_sites, names_of, patched
from probes.tables import stack

STREAM = ("resid_pre", "attn_out", "mlp_out")  # what is patched unless told otherwise
POSITIONS = ("all", "changed", "answer", "together")
ROLES = ("before", "changed", "changed+1", "changed+2", "between", "answer-3", "answer-2", "answer-1", "answer")
BATCH = 128  # patched sequences a forward pass
MOST = 0.75  # share of pairs that the default claim wants answered


@dataclass(frozen=True, eq=False)
class Patching:
    """Patch one activation vector at a time from one run into the other, on pairs of prompts of equal length.

    The default metric is the logit difference m = logit(answer) - logit(wrong) at the position that predicts the
    answer. Denoising puts clean activations into the corrupted run, noising corrupted ones into the clean run. Rows:

    - `clean`, `corrupted`: m of the two unpatched runs; key `example`.
    - `logit_diff`: m with one patch; keys `example`, `site`, `layer`, `head` (of q, k, v, z, pattern), `position`, and
      the `role` of that position in that pair, one of `ROLES`: "changed" (the prompts differ there), "changed+1" and
      "changed+2" (behind the last such), "answer" (the answer is predicted there), "answer-3" to "answer-1", "before"
      and "between" for the rest.
    - `recovery`: (mean m_patched - mean m_corrupted) / (mean m_clean - mean m_corrupted), means over the examples of a
      cell; keys `site`, `layer`, `head`, `position`. In both directions 1 is the clean run and 0 the corrupted one. A
      ratio of means, since ratios of single pairs have no finite variance; a denominator of 0 leaves no row.
    - `role recovery`: the same over all cells of one role; keys `site`, `layer`, `head`, `role`. Where the decisive
      token does not stand at one place in all pairs this is the map to look at: by position it is smeared out.
    - `role effect`: mean m_patched - mean m of the run patched into, in nats, over all cells of one role; keys `site`,
      `layer`, `head`, `role`. It fades with the behaviour, where the ratio becomes a quotient of two small numbers.

    Other metrics have rows of the same kinds under their own name: `kl`, `kl clean`, `kl recovery`, ...; see
    `probes.metrics`. A patch that would replace a vector by an equal one is not run but has its value filled in, and
    nothing after the answer position is run: exact for causal models, and about a third of the work in full.

    Attributes:
        clean: Token ids, shape (n, T).
        corrupted: Token ids, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        answer: Answer to the clean prompt, shape (n,).
        wrong: Answer to the corrupted prompt, shape (n,).
        sites: Any of resid_pre, resid_mid, resid_post, attn_out, mlp_out (vectors of the stream), q, k, v, z (by head;
            k and v by key-value head), pattern (by head: the attention of one query position).
        positions: "all" (up to the last answer position), "changed", "answer", indices, or "together": all positions at
            once, whose rows have the role "together" and no position.
        direction: "denoise" or "noise".
        draws: How many draws per chain and rung are worth the cost.
        route: Blocks (a, b) of the default claim, found at w* by `build`.
        metrics: Any of logit_diff, probability, kl (from the clean run), loss (of the answer).

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=2, n_ctx=4, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> clean, corrupted = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 4, 2, 3]])
    >>> probe = Patching(clean, corrupted, *(torch.tensor([i]) for i in (3, 1, 4)), sites=("resid_pre",))
    >>> table = probe(model)
    >>> table[(table.measure == "recovery") & (table.layer == 0)].value.round(4).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """

    name: ClassVar[str] = "patching"
    needs: ClassVar[str] = "a bridge; corpus.pairs or corpus.of_kind (repeat)"
    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor
    sites: tuple[str, ...] = STREAM
    positions: str | tuple[int, ...] = "all"
    direction: Literal["denoise", "noise"] = "denoise"
    draws: int = 2
    route: tuple[int, int] | None = None
    metrics: tuple[str, ...] = ("logit_diff",)

    def __post_init__(self) -> None:
        """Refuse pairs and settings that cannot be patched."""
        check_pairs(self.clean, self.corrupted, self.position, self.answer, self.wrong)
        check_sites(self.sites)
        check_metrics(self.metrics)
        check_direction(self.direction)
        _check_positions(self.positions, self.clean.shape[1])

    @property
    def measures(self) -> Mapping[str, Measure]:
        """How to read the rows of each metric."""
        return measures_of(self.metrics, ratios=("recovery", "role recovery"), effects=("role effect",))

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 16,
        seed: int = 0,
        task: str | None = None,
        sites: str | Sequence[str] = STREAM,
        positions: str | Sequence[int] = "all",
        direction: Literal["denoise", "noise"] = "denoise",
        metrics: str | Sequence[str] = ("logit_diff",),
        draws: int = 2,
    ) -> Self:
        """Patching on `n` pairs of the organism's corpus; the route of its claim is read off the subject's model.

        Several sites or metrics may be given as one string, joined by "+". Tasks: see `probes.pairs.pairs_of`.

        Raises:
            ValueError: If the subject has no corpus with pairs or repeats, or a setting is unknown or out of range.
        """
        pairs = pairs_of(subject, cls.name, n, seed, task)
        where = positions if isinstance(positions, str) else tuple(positions)
        data = (pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong)
        probe = cls(
            *data,
            sites=names_of(sites),
            positions=where,
            direction=direction,
            draws=positive(cls.name, "draws", draws),
            metrics=names_of(metrics),
        )
        stream = replace(probe, sites=("resid_pre",), positions="all", direction="denoise", metrics=("logit_diff",))
        return replace(probe, route=_route(stream(subject.model)))

    def claim(self) -> Claim:
        """The answer moves from the changed token to the answer position between the same blocks as at w*.

        With the role recovery of resid_pre by denoising: block a is the last one that at least half of it enters at the
        changed token, block b the first one that at least half of it leaves at the answer position. The claim asks for
        the same a and b, and that the model still answers: in at least three quarters of the pairs the logit difference
        is positive in the clean run and negative in the corrupted one (a quarter by guessing).

        Raises:
            ValueError: If the route is unknown, or this probe does not patch resid_pre everywhere by denoising.
        """
        if self.route is None:
            raise ValueError(
                "the default claim needs the route found at w*: use Patching.build(subject) or give route="
            )
        measured = "resid_pre" in self.sites and "logit_diff" in self.metrics
        if not measured or self.positions != "all" or self.direction != "denoise":
            raise ValueError(
                "the default claim needs the site resid_pre, the metric logit_diff, positions='all' and "
                f"direction='denoise', and this probe has sites={self.sites}, metrics={self.metrics}, "
                f"positions={self.positions!r}, direction={self.direction!r}"
            )
        leaves, arrives = self.route
        statement = f"the answer leaves the token that decides it in block {leaves} and arrives in block {arrives}"
        return Claim(self, statement, lambda table: _answered(table) >= MOST and _route(table) == self.route)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run every patch; see the class for the rows."""
        require_bridge(model, self.name)
        check_model(model, self.sites)
        made = trial(model, self)
        new, old = (activations(model, tokens, self.sites) for tokens in (made.source, made.tokens))
        selected = self._selected(made.tokens.shape[1])
        found = {place: self._patched(model, made, place, new[place], old[place], selected) for place in new}
        tables = []
        for index, metric in enumerate(self.metrics):
            cells = stack([self._table(place, selected, value[..., index]) for place, value in found.items()])
            tables += [unpatched(made.unpatched(index)), *_rows(metric, cells, made.runs(index))]
        return stack(tables)

    def _roles(self, stop: int) -> np.ndarray:
        """Role of every position in every pair, shape (n, stop)."""
        changed = (self.clean != self.corrupted)[:, :stop].cpu().numpy()
        place = np.arange(stop)
        to_answer = self.position.cpu().numpy()[:, None] - place
        since = place - np.where(changed, place, -1).max(1, keepdims=True)
        is_role = [changed, *(to_answer == steps for steps in range(4)), since == 1, since == 2, since > 2]
        names = ["changed", "answer", *(f"answer-{steps}" for steps in (1, 2, 3)), "changed+1", "changed+2", "between"]
        return np.select(is_role, names, default="before")

    def _selected(self, stop: int) -> np.ndarray:
        """Which (pair, position) cells are asked for, shape (n, stop)."""
        if self.positions in ("all", "together"):
            return np.ones((len(self.clean), 1 if self.positions == "together" else stop), dtype=bool)
        if self.positions == "answer":
            return np.arange(stop) == self.position.cpu().numpy()[:, None]
        if self.positions == "changed":
            return (self.clean != self.corrupted)[:, :stop].cpu().numpy()
        return np.isin(np.arange(stop), np.array(self.positions))[None].repeat(len(self.clean), 0)

    def _patched(
        self, model: Any, made: Trial, place: tuple[str, int], new: Tensor, old: Tensor, selected: np.ndarray
    ) -> np.ndarray:
        """Metrics of every cell patched alone, shape (n, T or 1, heads, metrics); the base run's where none changes."""
        together = self.positions == "together"
        live = (new != old).any(-1).cpu()
        live &= (torch.arange(live.shape[1]) <= made.position[:, None])[..., None]
        live = live.any(1, keepdim=True) if together else live
        cells = torch.nonzero(live & torch.from_numpy(selected)[..., None])
        found = made.base[:, None, None].repeat(1, *live.shape[1:], 1)
        for row, at, head in (part.unbind(1) for part in cells.split(BATCH) if len(part)):
            where: Tensor | slice = slice(None) if together else at
            with patched(model, *place, Patch(torch.arange(len(row)), where, head, new[row, where, head])):
                found[row, at, head] = made.measure(model, row)
        return found.numpy()

    def _table(self, place: tuple[str, int], selected: np.ndarray, found: np.ndarray) -> pd.DataFrame:
        """One row per cell of a site and layer; `found` has shape (n, T or 1, heads)."""
        site, layer = place
        example, position, head = np.nonzero(np.broadcast_to(selected[..., None], found.shape))
        keys: dict[str, Any] = {"example": example, "site": site, "layer": layer}
        if SITES[site].layout != "stream":
            keys["head"] = head
        if self.positions == "together":
            keys["role"] = "together"
        else:
            keys |= {"position": position, "role": self._roles(found.shape[1])[example, position]}
        return pd.DataFrame({"value": found[example, position, head], **keys})


def _rows(metric: str, cells: pd.DataFrame, runs: Mapping[str, np.ndarray]) -> list[pd.DataFrame]:
    """The cells of one metric, and what they amount to."""
    by_position, by_role = (means(cells, runs, ["site", "layer", "head", key]) for key in ("position", "role"))
    return [
        cells.assign(measure=metric),
        recovery(by_position, named(metric, "recovery")),
        recovery(by_role, named(metric, "role recovery")),
        effect(by_role, named(metric, "role effect")),
    ]


def _answered(table: pd.DataFrame) -> float:
    """Share of the pairs whose clean and corrupted prompts both draw their own answer rather than the other's."""
    rows = table[table["measure"].isin(["clean", "corrupted"])]
    by_pair = rows.pivot_table(index="example", columns="measure", values="value")
    return float(((by_pair["clean"] > 0) & (by_pair["corrupted"] < 0)).mean())


def _route(table: pd.DataFrame) -> tuple[int, int]:
    """Blocks in which the answer leaves the changed token and arrives at the answer position; see `Patching.claim`.

    What enters block b + 1 is what left block b. After the last block all of it has arrived: the logits are read there.
    """
    stream = table[(table["measure"] == "role recovery") & (table["site"] == "resid_pre") & (table["value"] >= 0.5)]
    entered = stream.loc[stream["role"] == "changed", "layer"]
    there = stream.loc[stream["role"] == "answer", "layer"]
    leaves = int(entered.max()) if len(entered) else 0
    return leaves, max(int(there.min()) - 1, 0) if len(there) else int(table["layer"].max())


def _check_positions(positions: str | tuple[int, ...], length: int) -> None:
    if isinstance(positions, str):
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}; choose from {', '.join(POSITIONS)}, or give indices")
    elif not positions or not all(0 <= place < length for place in positions):
        raise ValueError(f"positions must be indices in 0..{length - 1}, got {positions}")
