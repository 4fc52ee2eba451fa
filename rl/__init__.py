"""Foveate."""
