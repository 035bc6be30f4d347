"""Finetuned copies of an organism's model: `python -m studies.finetuning_training --model mixture --out DIR`.

Each variant is a Hugging Face directory. One thread, one seed: the same machine gives the same bits.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from degrade import next_token_loss
from degrade.engine import one_thread
from degrade.models import quiet
from studies.finetuning_tasks import Task, open_task, size, take

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = 4096


@dataclass(frozen=True)
class Variant:
    """How one copy is finetuned.

    Attributes:
        name: What tables call it.
        on: "task", or "base" for the control: more of the data that the model was trained on.
        method: "full", all weights; or "lora", low-rank adapters on all matrices of the layers (Hu et al. 2021, arXiv
            2106.09685), merged into the weights afterwards.
        steps: Steps of AdamW without weight decay; the strength.
        rate: Learning rate, falling linearly to 0.
        batch: Examples a step.
        rank: Rank of the adapters.
    """

    name: str
    on: Literal["task", "base"]
    method: Literal["full", "lora"]
    steps: int
    rate: float
    batch: int = 32
    rank: int = 4


CONTROL = Variant("control", "base", "full", 300, 1e-3)
VARIANTS = (
    CONTROL,
    Variant("full 100", "task", "full", 100, 1e-3),
    Variant("full 300", "task", "full", 300, 1e-3),
    Variant("LoRA 300", "task", "lora", 300, 1e-2),
)


def possible(variants: Sequence[Variant]) -> list[Variant]:
    """Those variants that the installed packages can make: adapters need `peft`."""
    return [one for one in variants if one.method == "full" or find_spec("peft") is not None]


def finetune(organism: Any, data: Any, variant: Variant, folder: Path, seed: int = 0) -> Path:
    """Finetune a copy of an organism's model and write it as a Hugging Face directory, adapters merged.

    Args:
        organism: Whose model.
        data: Examples, as `degrade.next_token_loss` reads them.
        variant: How.
        folder: Directory to write.
        seed: Of the adapters and of the order of the examples.

    Returns:
        The folder.

    Raises:
        ImportError: If the variant needs `peft` and it is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), one_thread():
        model = AutoModelForCausalLM.from_pretrained(organism.folder, local_files_only=True)
        trained = tuned(model, data, variant, seed)
        trained.save_pretrained(folder)
        AutoTokenizer.from_pretrained(organism.folder, local_files_only=True).save_pretrained(folder)
    (folder / "variant.json").write_text(json.dumps(asdict(variant) | {"seed": seed}, indent=1) + "\n")
    return folder


def tuned(model: Any, data: Any, variant: Variant, seed: int) -> Any:
    """The model, finetuned in place; with adapters, those merged into it."""
    network = adapted(model, variant.rank, seed) if variant.method == "lora" else model
    descend(network.train(), data, variant, seed)
    return (network.merge_and_unload() if variant.method == "lora" else network).eval()


def descend(network: nn.Module, data: Any, variant: Variant, seed: int) -> None:
    """Steps of AdamW on the mean loss of random batches, the gradient cut to norm 1."""
    weights = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=variant.rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step, index in enumerate(_batches(size(data), variant, seed)):
        for group in optimiser.param_groups:
            group["lr"] = variant.rate * (1 - step / variant.steps)
        nats, count = next_token_loss(network, take(data, index))
        optimiser.zero_grad()
        (nats.sum() / count.sum()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def adapted(model: Any, rank: int, seed: int) -> Any:
    """The model with fresh adapters, its own weights frozen.

    Raises:
        ImportError: If `peft` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install 'natural-degradation[finetuning]'") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the adapters from the global stream
        return get_peft_model(model, config)


def _batches(rows: int, variant: Variant, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    for _ in range(variant.steps):
        yield rng.integers(rows, size=variant.batch)


def data_of(variant: Variant, task: Task, base: Any) -> Any:
    """What a variant is trained on."""
    return task.training if variant.on == "task" else base


def main() -> None:
    """Command line of the script: every variant into a directory of its own."""
    from degrade import plugins

    parser = argparse.ArgumentParser(description="Finetune an organism's model.")
    parser.add_argument("--model", default="mixture")
    parser.add_argument("--task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    organism = plugins.find("organisms", given.model)
    task = open_task(organism, given.task, ROWS, 1, given.seed)
    base = organism.examples(organism.corpus.training().tokens)
    for variant in possible(VARIANTS):
        folder = finetune(organism, data_of(variant, task, base), variant, given.out / variant.name, given.seed)
        print(folder, flush=True)


if __name__ == "__main__":
    main()
