"""Benchmarks: `python -m tests.benchmarks NAME [--quick] [--option value ...]` prints a table and writes it as csv.

Not part of pytest's outcome. Each is a module with `run(quick, ...) -> DataFrame`, all that costs, whose further
arguments are the command's options, and, where rows are many, `summary(table) -> DataFrame`, which is printed instead.
The csv's first line is the command. To add one: a new file, a line in NAMES.
"""

import argparse
import importlib
import os
import shlex
import sys
from pathlib import Path

from degrade.options import accepted

NAMES = {
    "agreement": "E[rise] of the model that ships with two preconditioners",
    "alarms": "which wrong steps, batches, neighbourhoods and jumps the verdict flags",
    "batched": "time of a step of four chains that step together over that of the same chains one by one",
    "dln": "LLC of deep linear networks against exact sampling, beside devinterp",
    "heating": "LLC against batch size and step size, with and without noise correction",
    "mixing": "gradients until the LLC of a quadratic is right, beside devinterp",
    "shipped": "gradients until the model that ships has a verdict of ok, beside devinterp's rules",
    "step": "time of a sampling step over bare forward + backward",
    "workers": "wall time by one process, by two, and by two workers of a Ray cluster",
}


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("name", choices=NAMES, help="; ".join(f"{name}: {what}" for name, what in NAMES.items()))
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the csv goes")
    parser.add_argument("--file", help="the csv's name; default: the benchmark's")
    given, rest = parser.parse_known_args()
    module = importlib.import_module(f"tests.benchmarks.{given.name}")
    table = module.run(**accepted(given.name, module.run, {"quick": given.quick}, rest))
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / f"{given.file or given.name}.csv").open("w") as file:
        file.write(f"# python -m tests.benchmarks {shlex.join(sys.argv[1:])}\n")
        table.to_csv(file, index=False)
    print((module.summary(table) if hasattr(module, "summary") else table).to_string(index=False))


if __name__ == "__main__":
    main()
