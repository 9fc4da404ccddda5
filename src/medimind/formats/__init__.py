"""Bounded readers of model files."""
