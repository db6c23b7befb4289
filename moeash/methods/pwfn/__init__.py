"""Probabilistic Weight Fixing: how far a weight may move is learnt from noise."""
