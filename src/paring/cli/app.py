"""The commands. Each one reads its arguments, calls one function of the library, and prints what came back."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from paring.cli import tables
from paring.cli.quantities import duration_s, size_bytes
from paring.cli.stdout import prints_on_stderr
from paring.errors import InfeasibleError
from paring.types import Budget, Objective

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Give it a trained network, data and a budget: it returns the fastest network that this machine can run and "
    "that a statistical test says still meets the budget.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]
NAMES_HELP = "Comma-separated names, with settings where you want them, as 'FineTune(epochs=5)'; default: all."
RECIPES_HELP = f"{NAMES_HELP[:-1]}. 'A + B' is one recipe."
Names = Annotated[str | None, typer.Option(help=NAMES_HELP, show_default=False)]
Recipes = Annotated[str | None, typer.Option(help=RECIPES_HELP, show_default=False)]

OPTIMIZE_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  paring optimize examples/digits.py --out out/demo\n\n"
    "  paring optimize task.py:my_task --out out/run --max-drop 0.005 --objective throughput --batch-size 64\n\n"
    "  paring optimize net.onnx --data rows.npz --out out/net --max-size 2MB --time-limit 10m\n\n"
    "  paring optimize task.py --out out/half --techniques 'PruneChannels + FineTune + StaticQuantization'\n\n"
    "  paring optimize task.py --out out/own --objective size --techniques 'PruneWeights(criterion=task.py:spread)'"
)


SENSITIVITY_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  paring sensitivity examples/digits.py --out out/parts --batch-size 64\n\n"
    "  paring sensitivity task.py --out out/parts --speedup 2 --techniques 'PruneChannels(criterion=taylor)'\n\n"
    "  paring sensitivity task.py --out out/zeros --techniques PruneWeights\n\n"
    "What --speedup prints is a recipe for `paring optimize --techniques`, with a training behind it."
)


DOCTOR_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  paring doctor\n\n"
    "  paring doctor --kernels --backends onnxruntime,openvino\n\n"
    "  paring doctor --kernels --json > kernels.json"
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of paring itself."""
    if version:
        from paring import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=OPTIMIZE_EPILOG)
def optimize(
    task: Annotated[str, typer.Argument(help="file.py, file.py:name, or file.onnx with --data.")],
    out: Annotated[Path, typer.Option(help="Folder for the result; a killed run goes on from it.")],
    data: Annotated[Path | None, typer.Option(help="For .onnx: FILE.npz with inputs by name and `targets`.")] = None,
    max_drop: Annotated[float, typer.Option(help="Score that may be lost: 0.01 is one point of accuracy.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    objective: Annotated[str, typer.Option(help="latency, throughput, size or memory.")] = "latency",
    max_latency_ms: Annotated[float | None, typer.Option(help="Median time of one batch.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Bytes on disk, for example 2MB.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory of the process, for example 500MB.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in a batch.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    time_limit: Annotated[str, typer.Option(help="For example 90s, 20m or 1.5h.")] = "20m",
    techniques: Recipes = None,
    backends: Names = None,
    seed: Annotated[int, typer.Option(help="Of the split, the search and the training.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an earlier run left in the folder.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be tried and how long it takes.")] = False,
    as_json: Json = False,
) -> None:
    """Search for the best network within the budget, certify it, and write it to a folder."""
    from paring.cli.chosen import chosen
    from paring.cli.functions import once
    from paring.cli.tasks import load_task
    from paring.flow.optimize import run
    from paring.flow.plan import make_plan
    from paring.flow.request import Request
    from paring.report.text import print_summary

    budget = Budget(
        max_drop=max_drop,
        confidence=confidence,
        max_latency_ms=max_latency_ms,
        max_size_bytes=size_bytes(max_size) if max_size else None,
        max_memory_bytes=size_bytes(max_memory) if max_memory else None,
        objective=_objective(objective),
        batch_size=batch_size,
    )

    files = once()

    def request() -> Request:
        return Request(
            budget=budget,
            out=out,
            time_limit_s=duration_s(time_limit),
            backends=chosen("backend", backends),
            threads=threads,
            seed=seed,
            resume=not fresh,
            # The last to be evaluated: a task's file may train a network, and what was typed is checked first.
            techniques=chosen("technique", techniques, files),
            task=load_task(task, data, files),
        )

    if plan:
        _show(lambda: make_plan(request()), as_json, tables.print_plan)
        return
    values = _show(lambda: run(request()).values, as_json, print_summary)
    typer.echo(f"report: {out / 'report.html'}", err=as_json)
    if values["status"] == "infeasible":
        raise InfeasibleError(values["reason"])


@app.command(epilog=SENSITIVITY_EPILOG)
def sensitivity(
    task: Annotated[str, typer.Argument(help="file.py or file.py:name; a graph has no layers to take from.")],
    out: Annotated[Path, typer.Option(help="Folder for what is measured; a killed run goes on from it.")],
    speedup: Annotated[float | None, typer.Option(help="Over the original on its fastest backend.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Median time of one batch, in place of --speedup.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in a batch.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    time_limit: Annotated[str, typer.Option(help="For example 90s, 20m or 1.5h.")] = "10m",
    techniques: Names = None,
    backends: Names = None,
    seed: Annotated[int, typer.Option(help="Of the split: the same as that of the search.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an earlier run left in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what each layer gains and loses where a part of it is removed, and what to take for a speed-up."""
    from paring.cli.chosen import chosen
    from paring.cli.functions import once
    from paring.cli.tasks import load_task
    from paring.flow.request import Request
    from paring.flow.sensitivity import check_module, dividing, survey
    from paring.tune.survey import Target

    target = Target(speedup, latency_ms)
    check_module(Path(task) if task.endswith(".onnx") else None)

    files = once()

    def request() -> Request:
        return Request(
            budget=Budget(batch_size=batch_size),
            out=out,
            time_limit_s=duration_s(time_limit),
            backends=chosen("backend", backends),
            threads=threads,
            seed=seed,
            resume=not fresh,
            techniques=dividing(chosen("technique", techniques, files), target),
            task=load_task(task, None, files),
        )

    values = _show(lambda: survey(request(), target).values, as_json, tables.print_sensitivity)
    typer.echo(f"report: {out / 'sensitivity.html'}", err=as_json)
    if values["wanted_speedup"] and not values["recipe"]:
        raise InfeasibleError(values["reason"])


@app.command(epilog="[bold]Example[/bold]\n\n  paring bench out/demo/best out/demo/frontier/03")
def bench(
    paths: Annotated[list[Path], typer.Argument(help="Artifacts, or output folders (their best).")],
    threads: Annotated[int | None, typer.Option(help="Default: as in the manifest.")] = None,
    time_limit: Annotated[str, typer.Option(help="For each pair.")] = "20s",
    as_json: Json = False,
) -> None:
    """Time artifacts in turn, each in a process of its own, against the first one."""
    from paring.flow.bench import bench as measure

    limit_s = duration_s(time_limit)
    _show(lambda: measure(paths, threads=threads, time_limit_s=limit_s), as_json, tables.print_bench)


@app.command(epilog="[bold]Example[/bold]\n\n  paring verify out/demo")
def verify(
    path: Annotated[Path, typer.Argument(help="An artifact or an output folder, on this or another host.")],
    threads: Annotated[int | None, typer.Option(help="Default: as in the manifest.")] = None,
    time_limit: Annotated[str, typer.Option(help="For the comparison with the original.")] = "20s",
    as_json: Json = False,
) -> None:
    """Run the golden inputs, compare the outputs, measure, and say whether what was promised holds here."""
    from paring.flow.verify import verify as check

    limit_s = duration_s(time_limit)
    found = _show(lambda: check(path, threads=threads, time_limit_s=limit_s), as_json, tables.print_verify)
    if not found["holds"]:
        raise typer.Exit(1)


@app.command(epilog="[bold]Example[/bold]\n\n  paring inspect out/demo/best")
def inspect(
    path: Annotated[Path, typer.Argument(help="An artifact, or an output folder (its best).")], as_json: Json = False
) -> None:
    """Show what an artifact says of itself, after checking every file's sha256."""
    from paring.artifact import Artifact

    _show(lambda: Artifact.chosen(path).manifest.to_json(), as_json, tables.print_inspect)


@app.command(epilog="[bold]Example[/bold]\n\n  paring report out/demo")
def report(path: Annotated[Path, typer.Argument(help="An output folder.")]) -> None:
    """Write report.html again from what the folder holds."""
    from paring.report import write_report

    typer.echo(write_report(path))


@app.command(epilog=DOCTOR_EPILOG)
def doctor(
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Measure which number formats have real kernels, and how fast they are.")
    ] = False,
    backends: Names = None,
    as_json: Json = False,
) -> None:
    """Say what this machine is, which backends work on it, and why the others do not."""
    from rich.console import Console

    from paring.cli.chosen import chosen
    from paring.flow.doctor import doctor as examine
    from paring.flow.doctor import kernel_table

    asked = chosen("backend", backends)
    if not kernels:
        _show(lambda: examine(asked), as_json, tables.print_doctor)
        return

    def measured() -> dict[str, Any]:
        with Console(stderr=True).status("starting") as status:
            return kernel_table(asked, status.update)

    _show(measured, as_json, tables.print_kernels)


def _objective(text: str) -> Objective:
    return text  # type: ignore[return-value]  # Budget checks it and says what is allowed.


def _show(make: Callable[[], Any], as_json: bool, show: Callable[[Any], None]) -> Any:
    """Print what is made, and return it; JSON stands alone on stdout, whatever is printed while it is made."""
    with prints_on_stderr() if as_json else nullcontext():
        values = make()
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        show(values)
    return values
