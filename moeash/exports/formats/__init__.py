"""The formats a compressed network is written in, each checked by what reads it."""
