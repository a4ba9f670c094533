"""The answer in words: the same sentences for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paring.report import units
from paring.report.points import Interval, Point
from paring.report.records import Answer, Certified
from paring.report.units import ScoreUnit

SPACE = "\u00a0"


@dataclass(frozen=True)
class Story:
    """`lead` is the answer in a few words, `rest` ends its sentence, `details` are further sentences."""

    lead: str
    rest: str
    details: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Lead and rest in one."""
        return f"{self.lead}{self.rest}"


def told(answer: Answer, unit: ScoreUnit) -> Story:
    """The story of a result: what came of it, and what zeros among the weights gained where there are any."""
    story = _outcome(answer, unit)
    return replace(story, details=(*story.details, *_some(answer.zeros)))


def _outcome(answer: Answer, unit: ScoreUnit) -> Story:
    if answer.status == "improved" and answer.best:
        return _improved(answer, answer.best, unit)
    if answer.status == "infeasible":
        return Story("Nothing that was tried meets the budget.", "", _some(as_sentence(answer.reason)))
    return _kept(answer)


def as_sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def budget_told(answer: Answer, unit: ScoreUnit) -> str:
    """What the result had to meet, in one line."""
    budget = answer.budget
    limits = []
    if budget.max_drop is not None:
        limits.append(
            f"a drop of at most {unit.drop(budget.max_drop)} with {units.percent(budget.confidence)} confidence"
        )
    if budget.max_latency_ms is not None:
        limits.append(f"at most {units.latency(budget.max_latency_ms)} a call")
    if budget.max_size_bytes is not None:
        limits.append(f"at most {units.size(budget.max_size_bytes)} on disk")
    if budget.max_memory_bytes is not None:
        limits.append(f"at most {units.size(budget.max_memory_bytes)} of memory")
    goal = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}
    best = goal.get(budget.objective, "the least memory")
    return f"{'; '.join([*limits, best])} at batch size {budget.batch_size}{_threads(answer)}."


def certified_told(certificate: Certified | None, unit: ScoreUnit) -> str:
    """What the certificate says, as the end of a sentence."""
    if certificate is None or certificate.upper_bound is None:
        return "its drop was not certified"
    word = "an approximately certified" if certificate.approximate else "a certified"
    confidence = units.percent(certificate.confidence)
    bound = unit.bound(certificate.upper_bound)
    return (
        f"at {word} drop of at most {bound} ({confidence} confidence, n{SPACE}={SPACE}{units.count(certificate.rows)})"
    )


def _improved(answer: Answer, best: Point, unit: ScoreUnit) -> Story:
    lead, rest = _gain(answer, best)
    details = [_before_after(answer.baseline, best, answer)]
    if answer.speedup_over_source:
        details.append(_over_source("Against the model as it came, it runs at", "", answer.speedup_over_source))
    details.append(as_sentence(answer.reason))
    comma = "," if certified_told(answer.certificate, unit).startswith("at ") else ";"
    return Story(
        lead, f"{rest}{comma} {certified_told(answer.certificate, unit)}.", tuple(each for each in details if each)
    )


def _gain(answer: Answer, best: Point) -> tuple[str, str]:
    original = "the original on its fastest runtime"
    speed = answer.speedup
    interval = f" ({units.interval(speed.low, speed.high)})" if speed else ""
    pace = f", at {units.ratio(speed.ratio)}{interval} its speed" if speed else ""
    objective, before = answer.budget.objective, answer.baseline
    if objective == "size" and before and before.size_bytes and best.size_bytes:
        return f"{units.ratio(before.size_bytes / best.size_bytes)} smaller", f" than {original}{pace}"
    if objective == "memory" and before and before.peak_memory_bytes and best.peak_memory_bytes:
        factor = before.peak_memory_bytes / best.peak_memory_bytes
        return f"{units.ratio(factor)} less memory", f" than {original}{pace}"
    if speed is None:
        return "Improved", f" over {original}"
    if objective == "throughput":
        return f"{units.ratio(speed.ratio)} the throughput", f"{interval} of {original}"
    if speed.low > 1:
        return f"{units.ratio(speed.ratio)} faster", f"{interval} than {original}"
    # An original that breaks a limit of the budget need not be beaten.
    return f"{units.ratio(speed.ratio)} the speed", f"{interval} of {original}"


def _before_after(before: Point | None, best: Point, answer: Answer) -> str:
    if before is None:
        return ""
    parts = []
    if before.p50_ms is not None and best.p50_ms is not None:
        parts.append(f"{units.latency(best.p50_ms)} a call instead of {units.latency(before.p50_ms)}")
    if before.size_bytes and best.size_bytes:
        parts.append(f"{units.size(best.size_bytes)} on disk instead of {units.size(before.size_bytes)}")
    batch = f" at batch size {answer.budget.batch_size}{_threads(answer)}"
    return f"{', '.join(parts)}{batch}." if parts else ""


def _kept(answer: Answer) -> Story:
    where = answer.best or answer.baseline
    rest = f", on {where.backend_text}, its fastest runtime." if where else "."
    details = list(_some(as_sentence(answer.reason)))
    factor = answer.speedup_over_source
    if factor and factor.low > 1:
        details.append(_over_source("Its runtime alone gives", " of the model as it came", factor))
    return Story("The original was kept", rest, tuple(details))


def _over_source(begin: str, end: str, factor: Interval) -> str:
    """The speed beside that of the model as it came; no factor where the interval is too wide for one."""
    interval = units.interval(factor.low, factor.high)
    if factor.vague:
        return f"Its speed against the model as it came could not be measured closely: it lies within {interval}×."
    return f"{begin} {units.ratio(factor.ratio)} the speed{end} ({interval})."


def _threads(answer: Answer) -> str:
    return f" on {units.counted(answer.threads, 'thread')}" if answer.threads else ""


def _some(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
