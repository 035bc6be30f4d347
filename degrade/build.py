"""`degrade.ladder`: from a trained model and data to draws at chosen loss rises, each rung with its verdict."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from degrade import logger, memory, preconditioners, tables
from degrade.batched import batched
from degrade.chain import Scene
from degrade.climb import climb
from degrade.compute import moved
from degrade.engine import engine
from degrade.journal import Journal, recording
from degrade.losses import Loss, next_token_loss, unit_of
from degrade.manifest import inputs
from degrade.parameters import Only, lent, select
from degrade.pilot import Settings
from degrade.potential import Potential
from degrade.recorded import Recorded
from degrade.request import Request
from degrade.result import Ladder
from degrade.samplers import SAMPLERS, exact
from degrade.scene import reachable, set_scene
from degrade.shelf import shelf_for
from degrade.stage import Stage
from degrade.variate import controlled

BATCH, WORK = 32, 1e8
RUNAWAY = 1.0  # nats; a rise below this is no runaway however small E_max is


def ladder(
    model: nn.Module,
    data: Any,
    rises: Sequence[float] | None = None,
    nbetas: Sequence[float] | None = None,
    loss: Loss = next_token_loss,
    width: float | None = None,
    gamma: float | None = None,
    only: Only = None,
    heldout: Any = None,
    observe: Sequence[Callable[[nn.Module], Any]] = (),
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Ladder:
    """Sample weights near a trained network at chosen loss rises.

    At each rung, draws follow p(w) ∝ exp(−nβ ΔL(w) − ½ Σ_t ‖w_t − w*_t‖²/s_t²), where ΔL is the rise of the mean loss
    over the sampling data, and nβ is found so that E[ΔL] equals the rung's target.

    Args:
        model: a trained network; it is given back bit for bit as it was found.
        data: examples the law is defined on (the training distribution): a tensor, a tuple or dict of tensors, a
            `datasets.Dataset` or a torch `Dataset`.
        rises: target E[ΔL] of each rung, nats per unit of the loss, ascending.
        nbetas: inverse temperatures instead, per unit of the loss, descending.
        loss: `loss(model, batch) -> (nats, count)`, each of shape (batch,).
        width: neighbourhood s_t = width · rms(w*_t); or
        gamma: isotropic precision, s_t = γ^(−½).
        only: sample some parameters alone: a regular expression on names, or {name: mask or None}.
        heldout: a second data set, whose rise is reported at each draw.
        observe: callables run on the model at each draw, for models whose weights are too large to keep.
        out: a directory to store the ladder in; it must not exist. What is finished is kept beside it until then: the
            same call, made again after a stop of any kind, goes on from there and ends with the same bits. Draws are
            read from there; without a directory they are in memory, or in a temporary one if they would take up a
            quarter of what is free.
        progress: show progress bars.
        **settings: the fields of `degrade.request.Request`: sampler "auto" ("sgld" where heating by minibatches limits
            the step, else "baoab"), preconditioner "auto" ("ekfac" where steps are on all data, else "fisher"),
            first_nbeta (where the search for the first target's temperature begins, such as what a like model took;
            None: what the quadratic basin says), step_size, steps, burn_in, batch_size (None: found and recorded),
            budget (steps of a chain at a rung, lengthening included; None: 2600, or `steps` if given), longer 1 (factor
            on steps, burn-in and budget),
            control_variate False (two gradients a step, of which the one at w* takes noise out: see `degrade.variate`),
            chains 4, draws 8, seed 0, cool False (go down again and compare: only then can a verdict be plain `ok`),
            evaluation 256 (size of the fixed set), keep "weights" or "none", workers 1, engine "processes" or "ray"
            (then address "auto", of a cluster, or None for a local one, and gpus, the share of a GPU that a chain
            takes); how gradients are computed: dtype, device, compile, micro_batch, checkpointing and chains_at_once,
            see `degrade.compute.Compute`; log "wandb" (see `degrade.logger`).

    Returns:
        A `Ladder`: `.table` (a row a rung, with its verdict), `.traces`, `.losses`, `.draws()`, `.applied(draw)`.

    Raises:
        ValueError: for settings that do not fit together, data without examples, a loss of the wrong shape, or a
            target above the highest reachable rise, a ladder that cannot fit into memory.

    Example:
        >>> import torch, degrade
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 3)
        >>> y = (x.sum(1) > 0).long()
        >>> net = torch.nn.Linear(3, 2)
        >>> for _ in range(200):
        ...     nats = torch.nn.functional.cross_entropy(net(x), y)
        ...     for p, g in zip(net.parameters(), torch.autograd.grad(nats, list(net.parameters()))):
        ...         _ = p.data.sub_(0.5 * g)
        >>> result = degrade.ladder(net, (x, y), rises=[0.1], loss=degrade.label_loss, width=0.8, steps=100,
        ...     burn_in=50, chains=2, draws=2, progress=False)
        >>> [(draw.rung, draw.chain) for draw in result.draws()]
        [(1, 0), (1, 0), (1, 1), (1, 1)]
    """
    request = Request.of(rises=_listed(rises), nbetas=_listed(nbetas), width=width, gamma=gamma, **settings)
    folder = None if out is None else _free(Path(out))
    selection = select(model, only)
    with recording(folder, "ladder") as journal:
        with moved(model, request.device), lent(model, selection) as center:
            scene = set_scene(model, selection, data, loss, request, heldout, tuple(observe), progress, center)
            batch = _batch_size(request, scene.potential)
            scene = _shelved(scene, request, journal, batch)
            ceiling = reachable(scene, request.seed)
            _refuse_unreachable(request, ceiling)
            scene = batched(controlled(scene, request.control_variate), request.together, batch)
            result = _climbed(scene, request, batch, ceiling, progress, journal)
        if folder is not None:
            result.save(folder)
    return result


def _listed(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _free(folder: Path) -> Path:
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; expected a new directory: choose another or remove it first")
    return folder


def _refuse_unreachable(request: Request, ceiling: float) -> None:
    if request.rises and request.rises[-1] >= ceiling:
        raise ValueError(
            f"target rise {request.rises[-1]:g} is not reachable: draws from the neighbourhood alone"
            f" ({request.neighbourhood}) raise the loss by {ceiling:.3g} nats on average; expected targets below that"
            f" (below {0.8 * ceiling:.2g} to let the loss, not the neighbourhood, decide): lower it, or take a larger"
            " width (smaller gamma)"
        )


def usual_batch(potential: Potential, sampler: str) -> int:
    """Examples a step: about 10⁸ multiplications' worth, at least 32, at most all of them (then without noise)."""
    if exact(sampler):
        return len(potential.data)
    fits = int(WORK / (potential.selection.count * max(potential.unit, potential.data.places)))
    return min(max(fits, BATCH), len(potential.data))


def _batch_size(request: Request, potential: Potential) -> int:
    """Examples of a step: as asked for, if that fits the other settings, or as usual."""
    examples, batch = len(potential.data), request.batch_size or usual_batch(potential, request.sampler)
    if request.control_variate and batch >= examples:
        raise ValueError(
            f"control_variate=True and each step is on all {examples} examples (batch_size={batch}), whose gradient has"
            " no noise; expected minibatches: leave it out, or give a smaller batch_size"
        )
    if exact(request.sampler) and (request.batch_size or examples) < examples:
        raise ValueError(
            f"sampler {request.sampler!r} accepts or rejects by the loss over all data, and batch_size="
            f"{request.batch_size} is less than all {examples} examples: leave batch_size out, or take a sampler that"
            f" lives with minibatches ({', '.join(name for name, one in SAMPLERS.items() if not one.exact)})"
        )
    return batch


def _shelved(scene: Scene, request: Request, journal: Journal, batch: int) -> Scene:
    """The scene with a place on disk for its draws, if they are to have one; refused if it does not fit."""
    shelf = shelf_for(journal.folder, scene.potential.selection.names, memory.drawn(scene, request), memory.free())
    scene = replace(scene, shelf=shelf)
    memory.refuse(scene, request, batch)
    return scene


def _climbed(scene: Scene, request: Request, batch: int, ceiling: float, progress: bool, journal: Journal) -> Ladder:
    given = inputs(scene, request)
    journal.agree(given, _expected(request))
    settings = Settings(
        request.seed,
        request.chains,
        batch,
        request.sampler,
        preconditioners.choose(request.preconditioner, batch >= len(scene.potential.data)),
        request.step_size,
        max(1.5 * ceiling, RUNAWAY),
        request.first_nbeta,
    )

    def finished(stage: Stage) -> None:
        bar.update()
        tell(tables.row(scene, request, stage, ceiling)[0])
        if scene.shelf:
            scene.shelf.tidy(stage.rung.number, stage.legs)

    total = sum(_expected(request)[kind] for kind in ("rungs", "cooled"))
    with (
        logger.told(request.log, given) as tell,
        engine(scene, request.workers, request.place) as runner,
        tqdm(total=total, desc="climbing", unit="rung", disable=not progress) as bar,
    ):
        stages = climb(Recorded(runner, journal), scene, settings, request, finished, journal)
    return tables.assemble(scene, request, stages, ceiling, unit_of(scene.potential.loss))


def _expected(request: Request) -> dict[str, int]:
    rungs = len(request.rises or request.nbetas or [])
    return {"rungs": rungs, "cooled": (rungs - 1) * request.cool, "chains": request.chains}
