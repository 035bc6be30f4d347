"""Activation patching: where, and from which layer on, does the answer travel through the network?

After Meng et al. 2022 (arXiv 2202.05262) and Heimersheim & Nanda 2024 (arXiv 2404.15255), whose terms are used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_pairs
from probes.hooks import device_of, record, replaced, require_bridge
from probes.predictions import logits_at
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

SITES = {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
POSITIONS = ("all", "changed", "answer")
DIRECTIONS = ("denoise", "noise")
ROLES = ("before", "changed", "changed+1", "changed+2", "between", "answer-3", "answer-2", "answer-1", "answer")
BATCH = 128  # patched sequences a forward pass
MOST = 0.75  # share of pairs that the default claim wants answered


class Run(NamedTuple):
    """One unpatched run.

    Attributes:
        difference: Logit of the answer minus logit of the wrong answer at the answer position, shape (n,).
        activations: By hook name, each (n, T, d).
    """

    difference: Tensor
    activations: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Patching:
    """Patch one activation vector at a time from one run into the other, on pairs of prompts of equal length.

    The metric is the logit difference m = logit(answer) - logit(wrong) at the position that predicts the answer.
    Denoising puts clean activations into the corrupted run, noising corrupted ones into the clean run. Rows:

    - `clean`, `corrupted`: m of the two unpatched runs; key `example`.
    - `logit_diff`: m with one patch; keys `example`, `site`, `layer`, `position`, and the `role` of that position in
      that pair, one of `ROLES`: "changed" (the prompts differ there), "changed+1" and "changed+2" (behind the last
      such), "answer" (the answer is predicted there), "answer-3" to "answer-1", "before" and "between" for the rest.
    - `recovery`: (mean m_patched - mean m_corrupted) / (mean m_clean - mean m_corrupted), means over the examples of a
      cell; keys `site`, `layer`, `position`. In both directions 1 is the clean run and 0 the corrupted one. A ratio of
      means, since ratios of single pairs have no finite variance; a cell whose denominator is 0 has no row.
    - `role recovery`: the same over all cells of one role; keys `site`, `layer`, `role`. Where the decisive token does
      not stand at one place in all pairs this is the map to look at: by position it is smeared out.
    - `role effect`: mean m_patched - mean m of the run patched into, in nats, over all cells of one role; keys `site`,
      `layer`, `role`. It fades with the behaviour, where the ratio above becomes a quotient of two small numbers.

    A patch that would replace a vector by an equal one is not run but has its value filled in, and nothing after the
    answer position is run: exact for causal models, and about a third of the work in full. `resid_mid` is not offered,
    because the hook of that name does not edit the residual stream in transformer-lens 4.3.

    Attributes:
        clean: Token ids, shape (n, T).
        corrupted: Token ids, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        answer: Answer to the clean prompt, shape (n,).
        wrong: Answer to the corrupted prompt, shape (n,).
        sites: Any of resid_pre, attn_out, mlp_out.
        positions: "all" (up to the last answer position), "changed", "answer", or indices.
        direction: "denoise" or "noise".
        draws: How many draws per chain and rung are worth the cost.
        route: Blocks (a, b) of the default claim, found at w* by `build`.

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
    measures: ClassVar[Mapping[str, Measure]] = {
        "clean": Measure(chance=0.0, higher=True, binary=False, unit="nats"),
        "corrupted": Measure(chance=0.0, higher=False, binary=False, unit="nats"),
        "logit_diff": Measure(chance=0.0, higher=True, binary=False, unit="nats"),
        "recovery": Measure(chance=0.0, higher=True, binary=False, unit="share"),
        "role recovery": Measure(chance=0.0, higher=True, binary=False, unit="share"),
        "role effect": Measure(chance=0.0, higher=True, binary=False, unit="nats"),
    }

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor
    sites: tuple[str, ...] = tuple(SITES)
    positions: str | tuple[int, ...] = "all"
    direction: Literal["denoise", "noise"] = "denoise"
    draws: int = 2
    route: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse pairs and settings that cannot be patched."""
        check_pairs(self.clean, self.corrupted, self.position, self.answer, self.wrong)
        _check_settings(self.sites, self.positions, self.direction, self.clean.shape[1])

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 16,
        seed: int = 0,
        sites: Sequence[str] = tuple(SITES),
        positions: str | Sequence[int] = "all",
        direction: Literal["denoise", "noise"] = "denoise",
        draws: int = 2,
    ) -> Self:
        """Patching on `n` pairs of the organism's corpus; the route of its claim is read off the subject's model.

        Raises:
            ValueError: If the subject has no corpus with `pairs`, or a setting is unknown or out of range.
        """
        pairs = subject.corpus(cls.name, "pairs").pairs(positive(cls.name, "n", n), seed)
        where = positions if isinstance(positions, str) else tuple(positions)
        chosen = (sites,) if isinstance(sites, str) else tuple(sites)
        data = (pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong)
        probe = cls(*data, sites=chosen, positions=where, direction=direction, draws=positive(cls.name, "draws", draws))
        stream = replace(probe, sites=("resid_pre",), positions="all", direction="denoise")
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
        if "resid_pre" not in self.sites or self.positions != "all" or self.direction != "denoise":
            raise ValueError(
                "the default claim needs resid_pre among the sites, positions='all' and direction='denoise', and this "
                f"probe has sites={self.sites}, positions={self.positions!r}, direction={self.direction!r}"
            )
        leaves, arrives = self.route
        statement = f"the answer leaves the token that decides it in block {leaves} and arrives in block {arrives}"
        return Claim(self, statement, lambda table: _answered(table) >= MOST and _route(table) == self.route)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run every patch; see the class for the rows."""
        require_bridge(model, self.name)
        stop = int(self.position.max()) + 1
        clean, corrupted = (self._run(model, tokens[:, :stop]) for tokens in (self.clean, self.corrupted))
        source, base = (clean, corrupted) if self.direction == "denoise" else (corrupted, clean)
        tokens = (self.corrupted if self.direction == "denoise" else self.clean)[:, :stop]
        selected = self._selected(stop)
        tables = [
            self._table(site, layer, selected, self._patched(model, tokens, hook, source, base, selected))
            for site, layer, hook in self._hooks(model)
        ]
        cells = pd.concat(tables, ignore_index=True)
        by_position, by_role = (_means(cells, clean, corrupted, base, key) for key in ("position", "role"))
        summaries = [_recovery(by_position, "recovery"), _recovery(by_role, "role recovery"), _effect(by_role)]
        return stack([_unpatched(clean, corrupted), cells, *summaries])

    def _hooks(self, model: Any) -> list[tuple[str, int, str]]:
        layers = range(model.cfg.n_layers)
        return [(site, layer, f"blocks.{layer}.{SITES[site]}") for site in self.sites for layer in layers]

    def _difference(self, scores: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        answer, wrong = self.answer[rows].cpu()[:, None], self.wrong[rows].cpu()[:, None]
        return (scores.gather(1, answer) - scores.gather(1, wrong))[:, 0].double()

    def _run(self, model: Any, tokens: Tensor) -> Run:
        scores, kept = record(model, tokens, [hook for _, _, hook in self._hooks(model)])
        at_answer = scores.cpu()[torch.arange(len(tokens)), self.position.cpu()]
        return Run(self._difference(at_answer), kept)

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
        if self.positions == "all":
            return np.ones((len(self.clean), stop), dtype=bool)
        if self.positions == "answer":
            return np.arange(stop) == self.position.cpu().numpy()[:, None]
        if self.positions == "changed":
            return (self.clean != self.corrupted)[:, :stop].cpu().numpy()
        return np.isin(np.arange(stop), np.array(self.positions))[None].repeat(len(self.clean), 0)

    def _patched(
        self, model: Any, tokens: Tensor, hook: str, source: Run, base: Run, selected: np.ndarray
    ) -> np.ndarray:
        """Logit difference of every cell patched alone, shape (n, stop); the base run's where nothing can change."""
        new = source.activations[hook]
        differs = (new != base.activations[hook]).any(-1).cpu()
        reaches = torch.arange(tokens.shape[1]) <= self.position.cpu()[:, None]
        rows, positions = torch.nonzero(differs & reaches & torch.from_numpy(selected), as_tuple=True)
        found = base.difference[:, None].repeat(1, tokens.shape[1])
        for start in range(0, len(rows), BATCH):
            row, at = rows[start : start + BATCH], positions[start : start + BATCH]
            place = torch.arange(len(row), device=device_of(model))
            with replaced(model, hook, place, at.to(place.device), new[row, at]):
                scores = logits_at(model, tokens[row], self.position[row])
            found[row, at] = self._difference(scores, row)
        return found.numpy()

    def _table(self, site: str, layer: int, selected: np.ndarray, found: np.ndarray) -> pd.DataFrame:
        example, position = np.nonzero(selected)
        cells = {"measure": "logit_diff", "value": found[selected], "example": example, "site": site, "layer": layer}
        return pd.DataFrame({**cells, "position": position, "role": self._roles(found.shape[1])[selected]})


def _unpatched(clean: Run, corrupted: Run) -> pd.DataFrame:
    n = len(clean.difference)
    value = torch.cat([clean.difference, corrupted.difference]).numpy()
    measure = np.repeat(["clean", "corrupted"], n)
    return pd.DataFrame({"measure": measure, "value": value, "example": np.tile(np.arange(n), 2)})


def _means(cells: pd.DataFrame, clean: Run, corrupted: Run, base: Run, key: str) -> pd.DataFrame:
    """Mean m of the patched, clean, corrupted and base runs by site, layer and `key`."""
    example = cells["example"].to_numpy()
    runs = {"clean": clean, "corrupted": corrupted, "base": base}
    by_cell = cells.assign(**{name: run.difference.numpy()[example] for name, run in runs.items()})
    groups = by_cell.groupby(["site", "layer", key], sort=False, as_index=False)
    return groups[["value", *runs]].mean()


def _recovery(means: pd.DataFrame, measure: str) -> pd.DataFrame:
    kept = means[means["clean"] != means["corrupted"]]
    value = (kept["value"] - kept["corrupted"]) / (kept["clean"] - kept["corrupted"])
    return kept.drop(columns=["clean", "corrupted", "base"]).assign(measure=measure, value=value)


def _effect(means: pd.DataFrame) -> pd.DataFrame:
    value = means["value"] - means["base"]
    return means.drop(columns=["clean", "corrupted", "base"]).assign(measure="role effect", value=value)


def _answered(table: pd.DataFrame) -> float:
    """Share of the pairs whose clean and corrupted prompts both draw their own answer rather than the other's."""
    unpatched = table[table["measure"].isin(["clean", "corrupted"])]
    by_pair = unpatched.pivot_table(index="example", columns="measure", values="value")
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


def _check_settings(sites: tuple[str, ...], positions: str | tuple[int, ...], direction: str, length: int) -> None:
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise ValueError(
            f"unknown sites {unknown}; choose from {', '.join(SITES)} (not resid_mid: in transformer-lens 4.3 its hook "
            "does not edit the residual stream)"
        )
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; choose from {', '.join(DIRECTIONS)}")
    if isinstance(positions, str):
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}; choose from {', '.join(POSITIONS)}, or give indices")
    elif not positions or not all(0 <= place < length for place in positions):
        raise ValueError(f"positions must be indices in 0..{length - 1}, got {positions}")
