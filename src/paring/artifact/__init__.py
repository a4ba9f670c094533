"""A network on disk, with all that is needed to run, verify and serve it."""

from paring.artifact.artifact import Artifact, foreign_file
from paring.artifact.manifest import Manifest

__all__ = ["Artifact", "Manifest", "foreign_file"]
