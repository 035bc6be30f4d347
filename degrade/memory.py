"""Memory: what is free, what a ladder would take of it at its peak, and no ladder that surely does not fit."""

import shutil
from pathlib import Path

import psutil
import torch

from degrade.chain import Scene
from degrade.potential import CHUNK
from degrade.request import Request
from degrade.step_size import BATCH
from degrade.timing import held, logits

GIB = 2**30
COPIES, A_CHAIN, A_RUNG = 24, 5, 6  # of the weights: in all; for each chain; kept of each rung to come back through
SURELY = 0.7  # an estimate is within 30 %
GROUPS = Path("/sys/fs/cgroup")


class TooLargeError(ValueError):
    """A ladder that needs more memory, or room on disk, than there is."""


def free(device: torch.device | None = None) -> int:
    """Bytes that a process can get: of an accelerator's memory, or of the system's within what its group is allowed."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    there, files = psutil.virtual_memory().available, [GROUPS / name for name in ("memory.max", "memory.current")]
    if not all(file.is_file() for file in files):
        return there
    most, used = (file.read_text().strip() for file in files)
    return there if most == "max" else min(there, max(int(most) - int(used), 0))


def peak(weights: int, held: int, logits: int, batch: int, fixed: int, back: int, chains: int) -> int:
    """Bytes of one process: copies of the weights, and the larger of a gradient and of a pass over the fixed set.

    Args:
        weights: Bytes of the sampled weights, in float32.
        held: Bytes that an example holds on to for its gradient.
        logits: Bytes of the logits of an example.
        batch: Examples of the largest gradient that go through the model at once.
        fixed: Examples of the fixed set.
        back: Rungs that chains come back through.
        chains: Their number.
    """
    copies = COPIES + A_CHAIN * chains + A_RUNG * back
    return copies * weights + max(batch * held, logits * (fixed + 2 * min(CHUNK, fixed)))


def at_once(batch: int, examples: int, micro_batch: int | None, chains: int = 1) -> int:
    """Examples that go through the model at once at most: of the chains' steps, or 128 to look at the curvature.

    >>> at_once(32, 1000, None), at_once(32, 100, None), at_once(32, 1000, 8), at_once(100, 100, None, chains=4)
    (128, 100, 8, 400)
    """
    return max(min(max(batch, BATCH), examples, micro_batch or examples), chains * min(batch, examples) * (chains > 1))


def drawn(scene: Scene, request: Request) -> int:
    """Bytes of all draws."""
    rungs = len(request.rises or request.nbetas or [])
    weights = sum(tensor.numel() * 4 for tensor in scene.potential.center)
    return rungs * request.chains * request.draws * weights * (request.keep == "weights")


def refuse(scene: Scene, request: Request, batch: int) -> None:
    """Refuse a ladder that surely does not fit: whose weights, gradients and draws need 0.7 of what is estimated.

    Args:
        scene: With the shelf that draws go to, if any.
        request: The settings.
        batch: Examples of a step.

    Raises:
        TooLargeError: naming what is needed, what is free, and the cure.
    """
    fixed, back = len(scene.evaluation.data), request.cool * len(request.rises or request.nbetas or [])
    weights = sum(tensor.numel() * 4 for tensor in scene.potential.center)
    batch = at_once(batch, len(scene.potential.data), request.micro_batch, request.together)
    one = peak(weights, held(scene), logits(scene), batch, fixed, back, request.chains)
    whole, there = one + (0 if scene.shelf else drawn(scene, request)), free(scene.potential.device)
    size = f"({batch} examples at once)"
    smaller = f"chains_at_once {size}" if request.together > 1 else f"micro_batch {size} with checkpointing=True,"
    if SURELY * whole > there:
        raise TooLargeError(
            f"this ladder needs about {whole / GIB:.2g} GiB of memory ({weights / GIB:.2g} for a copy of the weights),"
            f" and {there / GIB:.2g} are free; expected less: take fewer chains (with cool=True, rungs), a smaller"
            f" {smaller} or evaluation ({fixed}), a shorter context, or fewer weights (only=...)"
        )
    if scene.shelf and (room := shutil.disk_usage(scene.shelf.folder).free) < drawn(scene, request):
        raise TooLargeError(
            f"the draws take {drawn(scene, request) / GIB:.2g} GiB on disk, and {room / GIB:.2g} are free in"
            f" {scene.shelf.folder.parent}; expected room for them: take fewer draws, another directory, or keep='none'"
            " with probes that observe while the ladder is climbed"
        )
