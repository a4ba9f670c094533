"""Plain tables for people, on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paring.certify import Certificate
from paring.report import units
from paring.report.fields import Fields
from paring.report.points import Point
from paring.report.units import ScoreUnit


def _print(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console(highlight=False)
    if title:
        console.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _speedup(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{units.ratio(value['ratio'])} ({units.interval(value['low'], value['high'])})"


def print_plan(plan: Mapping[str, Any]) -> None:
    """What would be tried, what can't be, and how long it takes."""
    _print("Would try", ("stage", "recipe", "backend"), [tuple(row.values()) for row in plan["tried"]])
    if plan["not_tried"]:
        _print("Can't try", ("what", "why"), [tuple(row.values()) for row in plan["not_tried"]])
    for line in plan["notes"]:
        print(line)


def print_sensitivity(found: Mapping[str, Any]) -> None:
    """A row for each part, a row for each join, and the recipe."""
    unit = ScoreUnit(0 <= found["original"]["score"] <= 1)
    title = f"Parts, each alone, on {found['backend']}; drops on {found['rows']} rows, untrained"
    rows = [
        [
            units.layer(p["layer"]),
            p["technique"],
            *map(units.percent, (p["share"], p["time_saved"])),
            unit.drop(p["drop"]),
        ]
        for p in found["parts"]
    ]
    _print(title, ("layer", "technique", "removed", "time saved", "drop"), rows)
    if found["joins"]:
        _print("Joined", ("speed-up", "drop", "recipe"), [_joined(join, unit) for join in found["joins"]])
    if found["recipe"]:
        wanted = units.ratio(found["wanted_speedup"])
        training = " + FineTune" if found["train_data"] else ""
        print(f'{wanted} at the least harm, which a training has to mend: --techniques "{found["recipe"]}{training}"')
    for row in found["not_tried"]:
        print(f"{row['what']}: {row['reason']}")


def _joined(join: Mapping[str, Any], unit: ScoreUnit) -> tuple[str, str, str]:
    speedup = units.ratio(join["speedup"]) if join["speedup"] else join["reason"]
    return speedup, unit.drop(join["drop"]), join["recipe"]


def print_bench(found: Mapping[str, Any]) -> None:
    """One row for each artifact."""
    rows = [
        (
            row["path"],
            row["backend"],
            units.latency(row["latency_ms"]["p50"]),
            units.latency(row["latency_ms"]["p99"]),
            units.throughput(row["throughput_per_s"]),
            units.size(row["size_bytes"]),
            _speedup(row["speedup"]),
        )
        for row in found["artifacts"]
    ]
    _print("", ("artifact", "backend", "p50", "p99", "throughput", "size", "speed-up over the first"), rows)


def print_verify(found: Mapping[str, Any]) -> None:
    """One row for each thing that was promised, and the verdict: a pass without a look at the speed says so."""
    rows = [(check["what"], check["promised"], check["here"], check["verdict"]) for check in found["checks"]]
    _print(f"{found['path']} on {found['host']}", ("", "promised", "here", ""), rows)
    held = "holds here" if found["holds"] else "does not hold here"
    print(f"What was promised {held}." if found["speed_checked"] else f"What was checked {held}; speed not checked.")


def print_inspect(manifest: Mapping[str, Any]) -> None:
    """What an artifact is, what was measured of it, and what is promised; `--json` has every field."""
    signature, found, certificate = manifest["signature"], manifest["measurements"], manifest["certificate"]
    point = Point.of(Fields(found))
    unit = ScoreUnit(point.score is None or 0 <= point.score <= 1)
    figures = [
        ("latency", f"{units.latency(point.p50_ms)}, p99 {units.latency(point.p99_ms)}"),
        ("throughput", units.throughput(point.throughput_per_s)),
        ("size", f"{units.size(point.size_bytes)} on disk, {units.size(point.peak_memory_bytes)} of memory"),
        ("score", f"{unit.score(point.score)} on the rows that the search saw"),
        ("speed-up", _speedup(found.get("speedup"))),
    ]
    rows = [
        ("task", manifest["task"]),
        ("inputs", _tensors(signature["inputs"])),
        ("outputs", _tensors(signature["outputs"])),
        ("recipe", manifest["recipe_text"]),
        ("backend", found.get("backend_text", manifest["backend"])),
        ("served", f"in batches of {manifest['batch_size']} on {units.counted(manifest['threads'], 'thread')}"),
        *(figures if found else ()),
        ("certificate", str(Certificate.from_json(certificate)) if certificate else "-"),
        ("made", f"by paring {manifest['version'] or '?'} on {_short(manifest['hardware'])}"),
        *((name, f"sha256 {digest}") for name, digest in manifest["files"].items()),
    ]
    _print("", ("", ""), rows)


def _tensors(specs: Sequence[Mapping[str, Any]]) -> str:
    """name: dtype (any, 3, 32, 32)"""
    shapes = (", ".join("any" if size is None else str(size) for size in spec["shape"]) for spec in specs)
    return "; ".join(f"{spec['name']}: {spec['dtype']} ({shape})" for spec, shape in zip(specs, shapes, strict=True))


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return "; ".join(_short(inner) for inner in value) or "-"
    return "-" if value is None else str(value)


def _what_works(probe: Mapping[str, Any]) -> str:
    """In which precisions, which numbers of channels are as fast as fewer, and which sums it cuts off."""
    multiple, saturates = probe["channel_multiple"], probe["saturates"]
    sizes = f"; channels rounded up to multiples of {multiple} take no more time" if multiple else ""
    sums = f"; {_cut(saturates)}" if saturates else ""
    return f"works, in {', '.join(probe['precisions'])}{sizes}{sums}"


def _cut(saturating: Sequence[Mapping[str, Any]]) -> str:
    """Which forms can't be trusted with large numbers."""
    forms = dict.fromkeys(f"{each['form']!r}" for each in saturating)
    return f"sums of products are cut off at 16 bits in {', '.join(forms)}: weights of at most 7 bits are exact there"


def print_doctor(found: Mapping[str, Any]) -> None:
    """The machine, then a row for each backend."""
    _print("This machine", ("", ""), [(name, _short(value)) for name, value in found["hardware"].items()])
    rows = [
        (probe["name"], probe["version"] or "-", probe["reason"] or _what_works(probe)) for probe in found["backends"]
    ]
    rows += [(name, "-", reason) for probe in found["backends"] for name, reason in probe["refused"].items()]
    _print("Backends", ("backend", "version", ""), rows)


def print_kernels(found: Mapping[str, Any]) -> None:
    """A table for each backend, with a row for each form and a column for each layer, and the reasons below it."""
    by_backend: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for row in found["kernels"]:
        title = f"{row['backend']} {row['version']}, on {found['hardware']['cpu']}"
        by_backend.setdefault(title, {}).setdefault(row["form"], {})[row["layer"]] = row
    for title, forms in by_backend.items():
        layers = list(dict.fromkeys(layer for rows in forms.values() for layer in rows))
        cells = [[form, *(_kernel(rows.get(layer)) for layer in layers)] for form, rows in forms.items()]
        _print(title, ("", *layers), cells)
        told = [row for rows in forms.values() for row in rows.values()]
        for reason in dict.fromkeys(row["reason"] for row in told if row["reason"]):
            which = dict.fromkeys(row["form"] for row in told if row["reason"] == reason)
            print(f"{'; '.join(which)}: {reason}")
        if cut := [row for row in told if row["saturates"]]:
            print(f"{_cut(cut)}.")
        print()
    for each in found["not_measured"]:
        print(f"{each['backend']}: {each['reason']}")
    print(
        "Speed over fp32 on one thread. integers, 16 bits, packed (weights unpacked as they are read): a kernel of its "
        "own. dequantized: right answers, computed in floats."
    )


def _kernel(row: Mapping[str, Any] | None) -> str:
    """What it computes in, and how fast."""
    if row is None:
        return "-"
    return row["verdict"] if row["speedup"] is None else f"{row['verdict']} {units.ratio(row['speedup'])}"
