"""Scales that no output sees, chosen so that one grid suits every row."""
