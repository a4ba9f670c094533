"""Probabilities: what can be said of the accuracy, and how surely."""
