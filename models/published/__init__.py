"""Checkpoints as others publish them: their configurations, names of weights and chat templates in our terms."""
