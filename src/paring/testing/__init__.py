"""Contract tests that any technique or backend must pass."""

from paring.testing.backends import BACKEND_CHECKS
from paring.testing.techniques import check_technique

__all__ = ["BACKEND_CHECKS", "check_technique"]
