"""What the README shows, runs."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_script_runs_and_its_table_carries_verdicts(capsys):
    script, coefficient = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    names: dict = {}
    for part in (script, coefficient):
        exec(compile(part, "README.md", "exec"), names)  # noqa: S102
    ladder, table = names["ladder"], names["table"]
    assert list(ladder.table.rung) == [0, 1, 2]
    assert ladder.table.verdict.notna().all()
    means = table.groupby("rung").value.mean()
    assert means[0] > 0.95
    assert means[0] > means[1] > means[2] > 0.5
    assert "verdict" in capsys.readouterr().out
    assert 0 < names["result"].llc < sum(p.numel() for p in names["model"].parameters()) / 2


def test_every_path_the_readme_names_exists():
    root = Path(__file__).parents[1]
    for path in re.findall(r"`((?:degrade|probes|studies|tests)/[\w/]+\.py)`", README):
        assert (root / path).is_file(), path
