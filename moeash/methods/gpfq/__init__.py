"""GPFQ: greedy path-following quantisation, one alphabet a layer."""
