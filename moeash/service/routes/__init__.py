"""Routes by what they are about: each parses, calls, and shapes the answer."""
