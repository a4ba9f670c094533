"""The machine that measured, and the commands that repeat and check the result."""

from __future__ import annotations

from decimal import Decimal

from paring.report import units
from paring.report.markup import Markup, el
from paring.report.records import Answer

REPEAT = "# run the search again; TASK is file.py, or the graph and its rows: file.onnx --data FILE"


def machine_section(answer: Answer) -> Markup:
    """A list of facts, then commands."""
    facts = [fact for fact in answer.hardware if fact[0] != "paring"]
    if answer.threads:
        facts.append(("threads used", str(answer.threads)))
    facts += [("wall time", units.duration(answer.wall_time_s)), ("trials", _outcomes(answer))]
    facts.append(("paring", answer.version or "–"))
    listed = [el("div", None, el("dt", None, name), el("dd", None, value)) for name, value in facts]
    repeat = (
        "The same seed draws the same split and the same trainings; what is tried follows from the times that "
        "this machine measures, so a repeated search may choose among near equals anew."
    )
    commands = el("pre", {"tabindex": 0}, el("code", None, "\n".join(commands_of(answer))))
    return el("div", {"class": "machine"}, el("dl", None, *listed), el("div", None, el("p", None, repeat), commands))


def commands_of(answer: Answer) -> list[str]:
    """TASK and DIR stand for what was given to it and for this folder: neither is recorded."""
    budget = answer.budget
    options = [f"--max-drop {_exact(budget.max_drop)}" if budget.max_drop is not None else ""]
    options += [f"--confidence {_exact(budget.confidence)}", f"--objective {budget.objective}"]
    options += [f"--max-latency-ms {_exact(budget.max_latency_ms)}" if budget.max_latency_ms is not None else ""]
    options += [f"--max-size {budget.max_size_bytes:.0f}" if budget.max_size_bytes is not None else ""]
    options += [f"--max-memory {budget.max_memory_bytes:.0f}" if budget.max_memory_bytes is not None else ""]
    options += [f"--batch-size {budget.batch_size}", f"--threads {answer.threads}" if answer.threads else ""]
    options += [f"--time-limit {_exact(answer.time_limit_s)}s" if answer.time_limit_s is not None else ""]
    options += [f"--seed {answer.seed}" if answer.seed is not None else ""]
    objects: list[str] = []
    for name, chosen in (("techniques", answer.techniques), ("backends", answer.backends)):
        if any("(" in each for each in chosen):
            objects.append(f"# from Python, with {name}: {', '.join(chosen)}")
        elif chosen:
            options.append(f"--{name} {','.join(chosen)}")
    search = [REPEAT, *objects, " ".join(["paring optimize TASK --out DIR", *filter(None, options)])]
    if answer.status == "infeasible":
        return search
    return [*search, "", "# check and measure it on this or another machine", "paring verify DIR/best"]


def _exact(value: float) -> str:
    """All digits and no power of ten, which is no time for the command line."""
    return f"{Decimal(repr(value)).normalize():f}"


def _outcomes(answer: Answer) -> str:
    return ", ".join(f"{units.count(number)} {name}" for name, number in answer.outcomes if number) or "none"
