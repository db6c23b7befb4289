"""Evaluation sets: where images come from, and the disjoint splits a study uses."""
