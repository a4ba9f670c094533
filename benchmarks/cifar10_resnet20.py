"""ResNet-20 on CIFAR-10, budget 1.0 point at 95 %, beside what a practitioner gets by hand from the same runtimes.

Run: PARING_DATA=FOLDER python benchmarks/cifar10_resnet20.py [latency] [throughput] [training]
     (pip install 'paring[peers]' for NNCF; about 5, 5 and 60 minutes of search, and the comparisons)

Peers, each on the network as the exporter gives it: ONNX Runtime's quantize_static (QDQ, per channel, u8 x s8, 512
training images) and NNCF's quantize on OpenVINO (300 training images, its defaults), each with the options that a user
would try, and ONNX Runtime's graph in OpenVINO too. The run with training is compared with paring's own best without
training as well, where `throughput` was run before. All are measured in turn with paring's result, in processes of
their own, and scored on the full test set. Writes results/cifar10_resnet20.json and .md.

The search's own cost: seconds until something was certified, and the most memory that the run and its workers held
together (RSS, so shared libraries count several times), beside that of a fine-tuning alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cifar10_tables import MAX_DROP, as_markdown
from memory import watched
from peers import made_by

import paring
from paring import registry
from paring.artifact import Artifact
from paring.backends.base import Backend
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.cli.tasks import load_task
from paring.data.job import Job
from paring.data.rows import write_rows
from paring.flow.paired import Scorer
from paring.flow.verify import deployment_of
from paring.graph.export import export_onnx, export_program, signature_of
from paring.measure.compare import compare
from paring.measure.hardware import hardware
from paring.measure.latency import Workload
from paring.techniques.fine_tune import FineTune
from paring.types import Budget, Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cifar10_resnet20.json"
OUT = HERE.parent / "out" / "benchmarks" / "cifar10_resnet20"
TASK = f"{HERE.parent / 'examples' / 'cifar10_resnet20.py'}"
POST_TRAINING = ("StaticQuantization", "HalfPrecision", "DynamicQuantization", "SmoothQuant", "MixedPrecision")
COMPARISON_S = 40.0
ALONE_S = 30.0


@dataclass(frozen=True)
class Question:
    """One run of paring, and the batch at which all are compared."""

    name: str
    batch_size: int
    objective: str
    time_limit_s: float
    training: bool


QUESTIONS = (
    Question("latency", 1, "latency", 300, training=False),
    Question("throughput", 64, "throughput", 300, training=False),
    Question("training", 64, "throughput", 3600, training=True),
)


@dataclass(frozen=True)
class Peer:
    """A network made by hand, and the options of its runtime that a user would try."""

    name: str
    network: Path
    backends: tuple[Backend, ...]


def make_peers(task: Task, folder: Path, batch_size: int) -> tuple[Peer, ...]:
    """The two peers' files, made in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    source, rows = folder / "float.onnx", folder / "calibration.npz"
    inputs, _ = next(iter(task.evaluate))
    signature = signature_of(task.model, inputs)  # type: ignore[arg-type]
    source.write_bytes(export_onnx(export_program(task.model, inputs), signature).SerializeToString())  # type: ignore[arg-type]
    np.savez(rows, input=np.concatenate([batch.numpy() for batch, _ in task.calibrate or ()])[:512])  # type: ignore[union-attr]
    for name, target in {"ONNX Runtime static": folder / "ort.onnx", "NNCF on OpenVINO": folder / "nncf.xml"}.items():
        if not target.is_file():
            made_by(name, source, rows, target)
    by_hand = (OpenVINO(), OpenVINO(streams=2), OpenVINO(static_batch=batch_size))
    return (
        Peer("ONNX Runtime static int8", folder / "ort.onnx", (OnnxRuntime(), OnnxRuntime(streams=2))),
        Peer("NNCF int8 on OpenVINO", folder / "nncf.xml", by_hand),
        Peer("ONNX Runtime static int8 on OpenVINO", folder / "ort.onnx", (OpenVINO(static_batch=batch_size),)),
    )


def without_training(question: Question) -> tuple[Peer, ...]:
    """paring's own best without training at the same batch."""
    folder = OUT / "throughput" / "best"
    if not question.training or not folder.is_dir():
        return ()
    best = deployment_of(Artifact.open(folder))
    return (Peer("paring without training", best.network, (best.backend,)),)


def fine_tune_alone(threads: int, answer: multiprocessing.Queue[int]) -> None:
    """The memory of a training with nothing around it."""
    task = load_task(TASK, None)
    job = replace(Job.of(task, threads=threads), deadline_s=time.monotonic() + ALONE_S)
    with watched() as memory:
        FineTune().apply(task.model, job)  # type: ignore[arg-type]
    answer.put(memory.peak_bytes)


def training_alone_bytes(threads: int) -> int:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=fine_tune_alone, args=(threads, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def accuracy_of(deployment: Deployment, scorer: Scorer, threads: int) -> float:
    """Accuracy on the full test set."""
    with IsolatedSession.of(deployment, threads=threads) as session:
        return float(scorer.scores(session).mean())


def answer(question: Question, threads: int) -> dict[str, Any]:
    """Run paring, make the peers, and compare all of them with paring's result in turn."""
    alone_bytes = training_alone_bytes(threads) if question.training else None
    task = load_task(TASK, None)
    with watched() as memory:
        result = paring.optimize(
            task,
            Budget(max_drop=MAX_DROP, objective=question.objective, batch_size=question.batch_size),  # type: ignore[arg-type]
            out=OUT / question.name,
            time_limit_s=question.time_limit_s,
            techniques=None if question.training else [registry.find("technique", n) for n in POST_TRAINING],
            threads=threads,
            resume=False,
        )
    assert result.best is not None
    best = deployment_of(result.best)
    folder = OUT / f"peers-{question.name}"
    peers = (*make_peers(task, folder, question.batch_size), *without_training(question))
    signature = signature_of(task.model, next(iter(task.evaluate))[0])  # type: ignore[arg-type]
    rows = write_rows(task.evaluate, folder / "rows", signature.input_names)
    scorer = Scorer(task, signature, rows, question.batch_size)
    timing = folder / "timing.npy"
    np.save(timing, rows.take(0, question.batch_size)[0]["input"])
    workload = Workload({"input": timing}, question.batch_size, threads)
    table = []
    for peer in peers:
        for backend in peer.backends:
            deployment = Deployment(backend, peer.network)
            found = compare(best, deployment, workload, time_limit_s=COMPARISON_S)
            accuracy = accuracy_of(deployment, scorer, threads)
            table.append(
                {
                    "peer": peer.name,
                    "options": str(backend),
                    "p50_ms": found.original.p50_ms,
                    "images_per_s": found.original.throughput_per_s,
                    "accuracy": accuracy,
                    "paring_p50_ms": found.candidate.p50_ms,
                    "paring_images_per_s": found.candidate.throughput_per_s,
                    "ratio": found.ratio,
                    "low": found.low,
                    "high": found.high,
                    "pairs": found.pairs,
                }
            )
            print(json.dumps(table[-1]), file=sys.stderr)
    return {
        "question": question.name,
        "batch_size": question.batch_size,
        "threads": threads,
        "time_limit_s": question.time_limit_s,
        "wall_time_s": result.values["wall_time_s"],
        "first_certified_s": result.values["first_certified_s"],
        "peak_memory_bytes": memory.peak_bytes,
        "training_alone_bytes": alone_bytes,
        "recipe": result.values["best"]["recipe_text"],
        "backend": result.values["best"]["backend_text"],
        "accuracy": accuracy_of(best, scorer, threads),
        "certificate": result.values["certificate"],
        "speedup": result.values["speedup"],
        "speedup_over_source": result.values["speedup_over_source"],
        "over_best_peer": min(row["ratio"] for row in table),
        "peers": table,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [question.name for question in QUESTIONS]
    parser.add_argument("questions", nargs="*", choices=[*names, []], default=names)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    answers: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"questions": {}}
    for question in QUESTIONS:
        if question.name in arguments.questions:
            answers["questions"][question.name] = answer(question, arguments.threads)
            answers["hardware"] = hardware()
            RESULTS.write_text(json.dumps(answers, indent=2) + "\n")
            RESULTS.with_suffix(".md").write_text(as_markdown(answers))


if __name__ == "__main__":
    main()
