"""Benchmarks: `python -m tests.benchmarks NAME [--quick]` prints a table and writes it as NAME.csv in this directory.

Not part of pytest's outcome. Each is a module with `run(quick) -> DataFrame`. To add one: a new file, a line in NAMES.
"""

import argparse
import importlib
import os
from pathlib import Path

NAMES = {
    "step": "time of a sampling step over bare forward + backward",
}


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("name", choices=NAMES, help="; ".join(f"{name}: {what}" for name, what in NAMES.items()))
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the csv goes")
    given = parser.parse_args()
    table = importlib.import_module(f"tests.benchmarks.{given.name}").run(given.quick)
    print(table.to_string(index=False))
    table.to_csv(given.out / f"{given.name}.csv", index=False)


if __name__ == "__main__":
    main()
