"""The worker's side of the table of kernels: a network answers as NumPy does or not, and is timed in turn with fp32."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.checks import in_one_sentence
from paring.backends.kernel_forms import FORMS, FP32, LAYERS, Layer, form_of
from paring.backends.kernel_networks import Sample, extreme_sample, sample
from paring.errors import BackendError
from paring.types import Array, Session

TIMED_S = 0.06
CALLS = range(5, 31)
"""At least and at most so many of each, as TIMED_S allows."""

TOLERANCE = 0.1
"""Of the answer's norm. Kernels that round inputs to 8 bits on the way, as some do unasked, are off by 0.01."""

SATURATED = 0.01
"""Of an answer that is known to be exact but for its own rounding."""


class KernelTimer:
    """Tries one form of one layer after the other in a backend; the fp32 network of each layer is loaded once."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.network = folder / NETWORK_FILES["onnx"]
        self._fp32: dict[str, Session] = {}

    def tried(self, form_name: str, layer_name: str) -> dict[str, Any]:
        """The answer to the command kernel: refused and wrong with the reason, else executed, speedup and saturates."""
        form, layer = form_of(form_name), LAYERS[layer_name]
        try:
            session, made = self._loaded(sample(form, layer))
            wrong = _wrong(session.run(made.inputs), made.answer)
        except Exception as error:  # It may be anybody's runtime: whatever it raises, it does not run this.
            return _answer(refused=str(error) if isinstance(error, BackendError) else f"{in_one_sentence(error)}.")
        executed = () if wrong else self._executed()
        speedup = 1.0 if wrong or form is FP32 else self._speedup(session, made, layer)
        session.close()
        saturates = form.may_saturate and not wrong and self.saturates(form_name, layer_name)
        return _answer(wrong=wrong, executed=executed, speedup=speedup, saturates=saturates)

    def saturates(self, form_name: str, layer_name: str) -> bool:
        """Whether the largest products that a network in that form can hold come out too small."""
        try:
            session, made = self._loaded(extreme_sample(form_of(form_name), LAYERS[layer_name]))
            (found,) = session.run(made.inputs).values()
            session.close()
        except Exception:  # What does not run at all is told by its row.
            return False
        return found.shape == made.answer.shape and bool((found < made.answer * (1 - SATURATED)).any())

    def _executed(self) -> Sequence[str]:
        try:
            return self.backend.executed(self.network)
        except Exception:  # It may be anybody's runtime: one that can't tell is judged by its time.
            return ()

    def _loaded(self, made: Sample) -> tuple[Session, Sample]:
        self.network.write_bytes(made.model.SerializeToString())
        return self.backend.load(self.network, threads=1), made

    def _speedup(self, session: Session, made: Sample, layer: Layer) -> float:
        """How many times as fast as fp32, by the fastest calls of each."""
        if layer.name not in self._fp32:
            self._fp32[layer.name], _ = self._loaded(sample(FP32, layer))
        pair = (self._fp32[layer.name], session)
        taken: tuple[list[int], list[int]] = ([], [])
        end = time.perf_counter() + TIMED_S
        while len(taken[0]) < CALLS[0] or (len(taken[0]) < CALLS[-1] and time.perf_counter() < end):
            for each, times in zip(pair, taken, strict=True):
                begin_ns = time.perf_counter_ns()
                each.run(made.inputs)
                times.append(time.perf_counter_ns() - begin_ns)
        return min(taken[0]) / min(taken[1])


def saturating(backend: Backend, folder: Path) -> dict[str, Any]:
    """The answer to the command saturating: pairs of a form and a layer."""
    timer, forms = KernelTimer(backend, folder), [form for form in FORMS.values() if form.may_saturate]
    found = [[form.name, layer] for form in forms for layer in LAYERS if timer.saturates(form.name, layer)]
    return {"saturating": found}


def _answer(
    refused: str = "", wrong: str = "", executed: Sequence[str] = (), speedup: float = 1.0, saturates: bool = False
) -> dict[str, Any]:
    told = {"refused": refused, "wrong": wrong, "executed": list(executed)}
    return {**told, "speedup": speedup, "saturates": saturates}


def _wrong(outputs: Mapping[str, Array], answer: Array) -> str:
    """How the one output differs from the answer, in words; empty where it does not."""
    shapes = [value.shape for value in outputs.values()]
    if shapes != [answer.shape]:
        return f"it answers with shape {', '.join(map(str, shapes))} where {answer.shape} is right."
    (found,) = outputs.values()
    distance = float(np.linalg.norm(found.astype(np.float64) - answer) / np.linalg.norm(answer))
    return "" if distance <= TOLERANCE else f"its answers are off by {distance:.0%}."
