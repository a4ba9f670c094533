"""Decisions: which recipe to try next."""
