"""The quick run of the main job, killed again and again: it ends with the bits of a run that never was."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from degrade.journal import RUN, place
from tests.degrade.runs import same

KILLS, SHORTEST, LONGEST = 20, 3.0, 25.0  # seconds of a life: from within the imports to several stored results
DEGRADE = Path(sys.executable).with_name("degrade")


def started(*arguments) -> subprocess.Popen:
    """`degrade ...` in a process of its own."""
    return subprocess.Popen(
        [DEGRADE, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def begun(out: Path, workers: int) -> list:
    """The command that goes on with a run, or begins it."""
    if (place(out) / RUN).exists():
        return ["resume", out]
    return ["run", "survival", "--quick", "--workers", workers, "--out", out]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_quick_run_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path, workers):
    whole, out, moments, kills = tmp_path / "whole", tmp_path / "killed", random.Random(workers), 0
    assert started(*begun(whole, workers)).wait() == 0
    while kills < KILLS:
        process = started(*begun(out, workers))
        try:
            assert process.wait(moments.uniform(SHORTEST, LONGEST)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        if out.exists():
            same(whole, out)
            shutil.rmtree(out)
    assert started(*begun(out, workers)).wait() == 0
    same(whole, out)
