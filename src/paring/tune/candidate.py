"""Candidate: a recipe on a backend, before it is tried."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from paring.backends.base import Backend
from paring.errors import InputError, in_words, quoted
from paring.techniques.base import ModuleTechnique, Recipe, Technique, described

Stage = Literal["baseline", "post-training", "training"]


@dataclass(frozen=True)
class Candidate:
    """What to try next. One that is `hopeless`, for the reason told there, becomes a row and is not run.

    `part` tells of a single part of a technique, tried alone, of which layer it takes how much.
    """

    recipe: Recipe
    backend: Backend
    stage: Stage
    hopeless: str = ""
    part: tuple[str, float] | None = None

    @property
    def phase(self) -> str:
        """What a run is about while this is tried, in words."""
        return "parts, one by one" if self.part else self.stage

    @property
    def key(self) -> str:
        """Identity of recipe and backend with all settings: the same in every run, whatever the stage."""
        return digest([recipe_json(self.recipe), backend_json(self.backend)])

    @property
    def network_key(self) -> str:
        """Identity of the network alone: backends that read the same format share it."""
        return digest([recipe_json(self.recipe), self.backend.format])

    @property
    def module_part(self) -> Recipe:
        """The leading techniques, which change the nn.Module."""
        return tuple(technique for technique in self.recipe if isinstance(technique, ModuleTechnique))

    @property
    def graph_part(self) -> Recipe:
        """The techniques that follow, which change the exported graph."""
        return self.recipe[len(self.module_part) :]

    def behind(self, module_part: Recipe) -> Candidate:
        """This one's graph techniques and backend as the end of a recipe that changes the nn.Module first."""
        return Candidate((*module_part, *self.graph_part), self.backend, "training")

    def __str__(self) -> str:
        """One line for people."""
        return f"{described(self.recipe)} on {self.backend}"


def digest(values: Any) -> str:
    """A short sha256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def recipe_json(recipe: Recipe) -> list[dict[str, Any]]:
    """A recipe as plain values."""
    return [{"technique": technique.name, "settings": technique.settings()} for technique in recipe]


def backend_json(backend: Backend) -> dict[str, Any]:
    """A backend as plain values."""
    return {"name": backend.name, "options": backend.options()}


def check_storable(part: Technique | Backend) -> None:
    """Raise InputError where a trial of it could not be written down: what JSON can't hold would end the whole run."""
    try:
        plain = part.settings() if isinstance(part, Technique) else part.options()
    except Exception as error:  # It may be anybody's code, or no dataclass.
        raise InputError(f"the settings of {part.name} can't be told: {in_words(error)}.") from error
    for name, value in plain.items():
        try:
            json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}={quoted(value)} of {part.name} can't be stored as JSON: "
                "give a plain finite number, a text, a truth value, None, or a list or dict of these."
            ) from error
