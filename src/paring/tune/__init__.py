"""Decisions: which recipe to try next."""

from paring.tune.candidate import Candidate
from paring.tune.ranking import Miss, Ranking
from paring.tune.scene import Scene
from paring.tune.search import Search
from paring.tune.trial import EVEN, Speedup, Trial

__all__ = ["EVEN", "Candidate", "Miss", "Ranking", "Scene", "Search", "Speedup", "Trial"]
