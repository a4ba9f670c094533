"""Probabilities: what can be said of the accuracy, and how surely."""

from paring.certify.certificate import Certificate, Method
from paring.certify.corpus import certify_corpus, paired_bootstrap_upper_bound
from paring.certify.rows import certify, rows_needed, smallest_certifiable_drop

__all__ = [
    "Certificate",
    "Method",
    "certify",
    "certify_corpus",
    "paired_bootstrap_upper_bound",
    "rows_needed",
    "smallest_certifiable_drop",
]
