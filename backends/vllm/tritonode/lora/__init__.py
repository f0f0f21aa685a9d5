"""Adapters: the registry, their files and weights, and what survives a restart."""
