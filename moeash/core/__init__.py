"""Arithmetic of weight sharing on NumPy arrays: no torch, no files, no clock, no global state."""
