"""Where the variance of a behaviour comes from at one rung: the chain, the draw, the question, and what they share.

A mixed model with crossed and nested random effects for the answer to question q on draw d of chain c,

    y_cdq = μ + C_c + D_cd + Q_q + (CQ)_cq + ε_cdq,

every chain asked the same questions on the same number of draws. For such balanced data REML equals the analysis of
variance wherever that is not negative (Searle, Casella & McCulloch 1992, section 4.8), which needs no iteration and no
matrix of all rows; the tests check it against statsmodels' `MixedLM`.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

SOURCES = ("chain", "draw", "example", "chain x example", "rest")
GRID = np.linspace(0.0, 0.98, 50)  # of an AR(1) law's ρ
PIVOTS = 4000  # Monte Carlo error of a 95 % limit: about a thirtieth of its distance from the estimate


class Squares(NamedTuple):
    """Mean squares of chain, draw, example, chain x example and rest, with their degrees of freedom."""

    mean: np.ndarray
    freedom: np.ndarray


def variance_split(
    frame: pd.DataFrame,
    value: str = "value",
    chain: str = "chain",
    draw: str = "draw",
    example: str = "example",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The variance components of one behaviour at one rung, with intervals.

    Draws of a chain are correlated. `draw` is the variance that two draws of one chain do not share on average,
    σ_D²(1 − ρ̄), ρ̄ the mean correlation over its pairs of draws; what they do share counts as `chain`, σ_C² + σ_D²ρ̄:
    the split says what another draw and what another chain of the same length would add. Intervals are generalised
    ones (Weerahandi 1993): quantiles of the components when each mean square is divided by an independent χ²/df. That
    of the draws is divided by Σ λ_i χ²_C/C / Σ λ_i, C the chains, λ the eigenvalues of an AR(1) law about chain means
    whose ρ is drawn from its restricted likelihood: correlated draws count for less, and few draws say little of ρ.

    Args:
        frame: A row per chain, draw and example.
        value: Column of the answers, any unit.
        chain: Column that names the chain.
        draw: Column that names the draw within its chain, in order.
        example: Column that names the question.
        confidence: Nominal coverage.

    Returns:
        A row per source (chain, draw, example, chain x example, rest): variance, low, high (squared unit of the
        value; an estimate below 0 is shown as 0), share (of the sum), error (what the source adds to the variance of
        the mean over all rows).

    Raises:
        ValueError: Fewer than 2 chains, draws or examples, or a combination that is missing or occurs twice.
    """
    cube = _cube(frame, value, chain, draw, example)
    squares = _squares(cube)
    variance = components(squares.mean, cube.shape)
    rng = np.random.default_rng(np.random.SeedSequence(PIVOTS))
    ratios = rng.chisquare(squares.freedom, (PIVOTS, 5)) / squares.freedom
    ratios[:, 1] = nested_ratios(cube.mean(2) - cube.mean((1, 2))[:, None], rng)
    pivots = components(squares.mean / ratios, cube.shape)
    tail = (1 - confidence) / 2
    low, high = np.clip(np.quantile(pivots, [tail, 1 - tail], axis=0), 0, None)
    shown = np.clip(variance, 0, None)
    total = shown.sum()
    out = pd.DataFrame({"source": SOURCES, "variance": shown, "low": low, "high": high})
    return out.assign(share=shown / total if total > 0 else np.nan, error=shown / _repeats(cube.shape))


def components(mean: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Variance components that equate mean squares to their expectations, (..., 5), negative ones included.

    Args:
        mean: (..., 5) mean squares in the order of `SOURCES`.
        shape: Chains, draws a chain, examples.
    """
    chains, draws, examples = shape
    by_chain, by_draw, by_example, crossed, rest = np.moveaxis(np.asarray(mean, float), -1, 0)
    return np.stack(
        [
            (by_chain - by_draw - crossed + rest) / (draws * examples),
            (by_draw - rest) / examples,
            (by_example - crossed) / (chains * draws),
            (crossed - rest) / draws,
            rest,
        ],
        axis=-1,
    )


def _repeats(shape: tuple[int, ...]) -> np.ndarray:
    """Over how many independent values of each source the mean of all rows averages."""
    chains, draws, examples = shape
    return np.array([chains, chains * draws, examples, chains * examples, chains * draws * examples])


def _cube(frame: pd.DataFrame, value: str, chain: str, draw: str, example: str) -> np.ndarray:
    """Answers as (chains, draws, examples)."""
    codes: list[Any] = [pd.factorize(frame[name], sort=True)[0] for name in (draw, example)]
    chains = pd.factorize(frame[chain], sort=True)[0]
    codes[0] = frame.groupby(chain)[draw].rank("dense").to_numpy().astype(int) - 1  # draws are numbered by chain
    shape = (chains.max() + 1, codes[0].max() + 1, codes[1].max() + 1)
    if min(shape) < 2:
        raise ValueError(f"{shape[0]} chains, {shape[1]} draws, {shape[2]} examples: a split needs two of each")
    cube, seen = np.full(shape, np.nan), np.zeros(shape, int)
    cube[chains, codes[0], codes[1]] = frame[value]
    np.add.at(seen, (chains, codes[0], codes[1]), 1)
    if (seen != 1).any() or np.isnan(cube).any():
        raise ValueError(
            f"{int((seen == 0).sum())} of {seen.size} combinations of {chain}, {draw} and {example} are missing and"
            f" {int((seen > 1).sum())} occur twice; every draw must be asked every question once"
        )
    return cube


def _squares(cube: np.ndarray) -> Squares:
    chains, draws, examples = cube.shape
    by_draw, by_cell, by_example = cube.mean(2), cube.mean(1), cube.mean((0, 1))
    by_chain, all_ = by_draw.mean(1), cube.mean()
    crossed = by_cell - by_chain[:, None] - by_example + all_
    rest = cube - by_draw[:, :, None] - by_cell[:, None, :] + by_chain[:, None, None]
    nested = by_draw - by_chain[:, None]
    freedom = np.array(
        [
            chains - 1,
            chains * (draws - 1),
            examples - 1,
            (chains - 1) * (examples - 1),
            chains * (draws - 1) * (examples - 1),
        ]
    )
    sums = np.array(
        [
            draws * examples * np.sum((by_chain - all_) ** 2),
            examples * np.sum(nested**2),
            chains * draws * np.sum((by_example - all_) ** 2),
            draws * np.sum(crossed**2),
            np.sum(rest**2),
        ]
    )
    return Squares(sums / freedom, freedom.astype(float))


def nested_ratios(nested: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws of (mean square of the draws)/(its expectation), as far as the draws tell how correlated they are.

    Args:
        nested: (chains, draws) draws about their chain means.
        rng: Of the draws.
    """
    chance, spectra = persistence(nested)
    spectrum = spectra[rng.choice(len(chance), PIVOTS, p=chance)]
    squares = rng.chisquare(len(nested), spectrum.shape) / len(nested)
    return (spectrum * squares).sum(1) / spectrum.sum(1)


def persistence(nested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The restricted likelihood of an AR(1) law's ρ, its scale integrated out, on a grid; and the law's spectra.

    With M an orthonormal basis of the contrasts between draws, R_ρ the correlations and y a chain's draws,
    log L = −½ C log |MᵀR_ρM| − ½ C(D − 1) log Σ_c yᵀM(MᵀR_ρM)⁻¹Mᵀy, for C chains of D draws.

    Args:
        nested: (chains, draws) draws about their chain means.

    Returns:
        (grid,) shares of the likelihood, (grid, draws − 1) eigenvalues of MᵀR_ρM.
    """
    chains, draws = nested.shape
    contrast = np.linalg.svd(np.eye(draws) - 1 / draws)[0][:, : draws - 1]
    lags = np.abs(np.subtract.outer(np.arange(draws), np.arange(draws)))
    laws = np.stack([contrast.T @ rho**lags @ contrast for rho in GRID])
    values = nested @ contrast
    squares = (values * np.linalg.solve(laws, values.T).swapaxes(1, 2)).sum((1, 2))
    if not np.any(nested) or draws < 3:
        return np.full(len(GRID), 1 / len(GRID)), np.linalg.eigvalsh(laws)
    log = -0.5 * chains * (np.linalg.slogdet(laws)[1] + (draws - 1) * np.log(squares))
    share = np.exp(log - log.max())
    return share / share.sum(), np.linalg.eigvalsh(laws)
