"""Trained torch networks: where they come from, and which of their parameters are shared."""
