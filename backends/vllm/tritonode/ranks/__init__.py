"""Engines with several ranks, each in its own process."""
