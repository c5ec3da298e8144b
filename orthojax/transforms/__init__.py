"""Optax gradient transformations, one or a close family a file."""
