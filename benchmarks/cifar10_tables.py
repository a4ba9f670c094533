"""The tables of cifar10_resnet20.py: what was wanted, what was found, and the peers beside it."""

from __future__ import annotations

from typing import Any

MAX_DROP = 0.01
WITHOUT_TRAINING, WITH_TRAINING = 0.98, 1.35
FIRST_CERTIFIED_S, MEMORY_GIB = 60.0, 2.0


def told_alone(alone_bytes: int | None) -> str:
    return f"; a fine-tuning alone holds {alone_bytes / 2**30:.2f} GiB" if alone_bytes else ""


def verdicts(found: dict[str, Any]) -> list[str]:
    """Rows of a table: what was wanted, what was found, and whether that is enough."""
    wanted_ratio = WITH_TRAINING if found["training_alone_bytes"] else WITHOUT_TRAINING
    beside_gib = (found["peak_memory_bytes"] - (found["training_alone_bytes"] or 0)) / 2**30
    ratio, first_s, bound = found["over_best_peer"], found["first_certified_s"], found["certificate"]["upper_bound"]
    rows = [
        ("speed-up over the best peer", f"at least {wanted_ratio}x", f"{ratio:.2f}x", ratio >= wanted_ratio),
        ("certified drop", "at most 1.0 points", f"{100 * bound:.2f} points", bound <= MAX_DROP),
        ("first certificate", f"within {FIRST_CERTIFIED_S:g} s", f"{first_s:.0f} s", first_s <= FIRST_CERTIFIED_S),
        (
            "memory above the training's",
            f"at most {MEMORY_GIB:g} GiB",
            f"{beside_gib:.2f} GiB",
            beside_gib <= MEMORY_GIB,
        ),
    ]
    return [f"| {what} | {wanted} | {got} | {'yes' if enough else '**no**'} |" for what, wanted, got, enough in rows]


def as_markdown(answers: dict[str, Any]) -> str:
    """The table that is committed beside the figures."""
    lines = ["# ResNet-20 on CIFAR-10, budget 1.0 point at 95 %", ""]
    for found in answers["questions"].values():
        certificate = found["certificate"]
        lines += [
            f"## {found['question']}: batch {found['batch_size']}, {found['threads']} threads, "
            f"time limit {found['time_limit_s']:g} s (took {found['wall_time_s']:g} s)",
            "",
            f"`{found['recipe']}` on `{found['backend']}`: {100 * found['accuracy']:.2f} % on the full test set, "
            f"certified drop at most {100 * certificate['upper_bound']:.2f} points (n = {certificate['n']}, "
            f"seen {100 * certificate['drop']:.2f}); {found['speedup']['ratio']:.2f}x "
            f"({found['speedup']['low']:.2f} to {found['speedup']['high']:.2f}) over the original on its fastest "
            "runtime.",
            "",
            f"The first certificate stood after {found['first_certified_s']:.0f} s; the run and its workers held at "
            f"most {found['peak_memory_bytes'] / 2**30:.2f} GiB together{told_alone(found['training_alone_bytes'])}.",
            "",
            "| figure | wanted | found | reached |",
            "|---|---|---|---|",
            *verdicts(found),
            "",
            "| peer | options | accuracy | p50 ms | images/s | paring's images/s in the same run | paring's speed-up |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['peer']} | `{row['options']}` | {100 * row['accuracy']:.2f} | {row['p50_ms']:.3f} "
            f"| {row['images_per_s']:,.0f} | {row['paring_images_per_s']:,.0f} "
            f"| {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}) |"
            for row in found["peers"]
        ]
        lines.append("")
    machine = answers["hardware"]
    lines.append(f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['isa'])}; {machine['packages']}.")
    return "\n".join(lines) + "\n"
