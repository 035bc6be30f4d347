"""The command line: `degrade run | validate | resume | status | report | list`.

Heavy libraries are imported by the command that needs them.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Degrade a trained network to chosen loss scales, and see which findings about it survive.",
)

KINDS = ("probes", "studies", "organisms")
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}

Study = Annotated[str, typer.Argument(help="A study by name (degrade list studies), or a study file (.yaml).")]
Model = Annotated[
    str | None,
    typer.Option(
        help="An organism (degrade list organisms), a Hugging Face directory, a hub name (org/name@revision) or"
        " package.module:function. Default: the study's."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Documents: a text file or folder, .jsonl, a directory or hub name of datasets, a tensor file."),
]
Context = Annotated[int | None, typer.Option(min=2, help="Tokens a window of --data [default: 128, or the model's].")]
Probes = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        help="NAME or NAME:key=value,key=a+b; repeat for several; all: every probe that fits. Default: the study's.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Quick = Annotated[bool, typer.Option(help="A smaller version, of a minute or two.")]
Controls = Annotated[bool, typer.Option(help="Also run the controls that need a ladder of their own.")]
Longer = Annotated[float, typer.Option(min=0.1, help="Multiply the steps of each rung.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes, one thread each [default: 2].")]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="Where workers are: processes (of this machine) or ray [default: processes]."),
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster; auto: the one this machine is part of [default: a local one].")
]
Gpus = Annotated[
    float | None, typer.Option(min=0, help="Share of a GPU for each unit on Ray [default: 1 if the model lies on one].")
]
Dtype = Annotated[
    str | None,
    typer.Option(help="bf16: matrix products in bfloat16, the chains' state in float32 [default: the model's]."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: cpu].")]
Compile = Annotated[bool, typer.Option("--compile", help="Gradients by torch.compile.")]
MicroBatch = Annotated[
    int | None, typer.Option(help="Examples whose gradient is taken at once, and summed up [default: the batch].")
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute each block of layers on the way back, to spare memory.")
]
ChainsAtOnce = Annotated[int, typer.Option(help="Chains of a small model that take each step together.")]
Log = Annotated[str | None, typer.Option(help="wandb: a run of Weights & Biases, offline unless WANDB_MODE is online.")]
LadderFolder = Annotated[Path | None, typer.Option(help="Ask the ladder of an earlier run instead of climbing.")]
Out = Annotated[Path | None, typer.Option(help="A new directory for the results [default: runs/STUDY].")]


@app.command(context_settings=OPEN)
def run(
    context_: typer.Context,
    study: Study,
    model: Model = None,
    data: Data = None,
    context: Context = None,
    probe: Probes = None,
    seed: Seed = 0,
    quick: Quick = False,
    controls: Controls = False,
    longer: Longer = 1.0,
    workers: Workers = None,
    engine: EngineName = None,
    address: Address = None,
    gpus: Gpus = None,
    log: Log = None,
    dtype: Dtype = None,
    device: Device = None,
    compile: Compile = False,
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = False,
    chains_at_once: ChainsAtOnce = 1,
    ladder: LadderFolder = None,
    out: Out = None,
) -> None:
    """Run a study and write its directory: tables, draws, figures and a report.

    If it is stopped, by whatever, `degrade resume` goes on from what it had finished.

    A study's own options follow as --name value, a list as a+b, a switch as --name: the arguments of its `run`. A study
    file holds all of them; beside it stand --workers, --engine, --address, --gpus, --log and --out alone.
    """
    from degrade.asked import asked

    given = {"model": model, "data": data, "context": context, "probes": probe, "seed": seed, "quick": quick,
             "controls": controls, "longer": longer, "ladder": ladder}  # fmt: skip
    way = {"dtype": dtype, "device": device, "compile": compile, "micro_batch": micro_batch,
           "checkpointing": checkpointing, "chains_at_once": chains_at_once}  # fmt: skip
    one = asked(study, given, way, workers, out, context_.args)
    if one.folder.exists():
        raise FileExistsError(
            f"{one.folder} already holds a run; expected a new directory: give another --out, or remove it first"
        )

    def work() -> tuple[str, Any]:
        from degrade.runs import carry_out

        return one.study, carry_out(one.study, one.arguments, one.folder, one.compute)

    _told(one.folder, _at(work, one.workers, engine, address, gpus, log))


@app.command(context_settings=OPEN)
def validate(
    context_: typer.Context,
    study: Study,
    model: Model = None,
    data: Data = None,
    context: Context = None,
    probe: Probes = None,
    seed: Seed = 0,
    quick: Quick = False,
    controls: Controls = False,
    longer: Longer = 1.0,
    workers: Workers = None,
    dtype: Dtype = None,
    device: Device = None,
    compile: Compile = False,
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = False,
    chains_at_once: ChainsAtOnce = 1,
    ladder: LadderFolder = None,
    out: Out = None,
) -> None:
    """Check a study file, or a study with its options, and tell what it would take; nothing is written.

    Model and data are opened, gradients timed, and for each ladder told: rungs, chains, gradients, time and memory.
    """
    from degrade import plugins
    from degrade.asked import asked
    from degrade.compute import computing
    from degrade.plan import lines

    given = {"model": model, "data": data, "context": context, "probes": probe, "seed": seed, "quick": quick,
             "controls": controls, "longer": longer, "ladder": ladder}  # fmt: skip
    way = {"dtype": dtype, "device": device, "compile": compile, "micro_batch": micro_batch,
           "checkpointing": checkpointing, "chains_at_once": chains_at_once}  # fmt: skip
    one = asked(study, given, way, workers, out, context_.args)
    plan = getattr(plugins.find("studies", one.study), "plan", None)
    told = [f"study {one.study!r} does not say what it would climb, so its time and memory are not told"]
    if plan is not None:
        with computing(one.compute):
            told = lines(plan(**one.arguments), one.workers)
    for line in (f"{study}: nothing is wrong with what was asked.", *told):
        typer.echo(line)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The --out of a run that was stopped.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: as many as it was begun with.")
    ] = None,
    engine: EngineName = None,
    address: Address = None,
    gpus: Gpus = None,
    log: Log = None,
) -> None:
    """Go on with a run that was stopped, from what it had finished, to the same bits."""
    from degrade.runs import resumed, tidy

    if tidy(folder):
        typer.echo(f"{folder} is finished.")
        return
    _told(folder, _at(lambda: resumed(folder, workers), workers or 2, engine, address, gpus, log))


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="The --out of a run, finished or not.")]) -> None:
    """Tell what a run has done, what failed and why, and the time left."""
    from degrade.status import lines

    for line in lines(folder):
        typer.echo(line)


def _at(
    work: Callable[[], Any], workers: int, engine: str | None, address: str | None, gpus: float | None, log: str | None
) -> Callable[[], tuple[str, Any]]:
    """The same work, its worker processes where they were asked for, told of where that was asked for."""
    from degrade.logger import logging
    from degrade.places import Place, placed

    place = Place(engine or "processes", address, gpus)  # type: ignore[arg-type]

    def there() -> tuple[str, Any]:
        with placed(place, workers), logging(log):
            return work()

    return there


def _told(folder: Path, work: Callable[[], tuple[str, Any]]) -> None:
    """Run a study, print its rungs with their verdicts and what was found, or what is kept if it is stopped."""
    from degrade import plugins, rung_lines

    began = time.monotonic()
    try:
        study, table = work()
    except KeyboardInterrupt as stop:
        typer.secho(f"degrade: stopped. {' '.join(_notes(stop)) or 'Nothing was written.'}", err=True)
        raise typer.Exit(130) from None
    for line in [*rung_lines.lines(folder), "", *plugins.find("studies", study).finding(table)]:
        typer.echo(line)
    typer.echo(f"Report: {folder / 'report.html'} ({time.monotonic() - began:.0f} s)")


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The directory of a finished run.")]) -> None:
    """Draw a finished run's figures and report again from its stored tables."""
    from degrade import manifest, plugins, study_file

    study = manifest.read(folder).get("study")
    if study is None:
        raise ValueError(f"{folder} holds a ladder without a study; expected the directory of a finished `degrade run`")
    module = plugins.find("studies", study)
    path = module.report(folder)
    study_file.embed(folder)
    typer.echo(f"Report: {path}")


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(help="probes, studies or organisms.")] = None) -> None:
    """List what is installed: name, one line, and for probes what they need."""
    from degrade import plugins

    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; the known ones are: {', '.join(KINDS)}")
    broken: list[ImportError] = []
    for group in [kind] if kind else KINDS:
        names = plugins.installed(group)
        typer.echo(f"{group}:")
        width = max(map(len, names), default=0)
        for name in names:
            try:
                plugin = plugins.find(group, name)
            except plugins.PluginError as fault:
                broken.append(fault)
                continue
            typer.echo(f"  {name:<{width}}  {_line(plugin)}")
            if needs := getattr(plugin, "needs", None):
                typer.echo(f"  {'':<{width}}  needs {needs}")
    if broken:
        raise plugins.PluginError("; ".join(map(str, broken))) from broken[0]


def _line(plugin: Any) -> str:
    return getattr(plugin, "summary", None) or (plugin.__doc__ or "").strip().split("\n")[0]


def main() -> None:
    """Entry point of the console script: a user's mistake is one sentence, not a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        for line in (f"degrade: {error}", *_notes(error)):
            typer.secho(line, fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.secho("degrade: stopped; nothing was written", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
