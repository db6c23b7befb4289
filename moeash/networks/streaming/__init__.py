"""Checkpoints that are not in memory: safetensors read and written a run of elements at a time."""
