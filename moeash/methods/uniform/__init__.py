"""Nearest bins of one global codebook: the published base method."""
