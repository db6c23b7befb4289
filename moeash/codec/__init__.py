"""SharedWeights <-> bytes, exactly. Reading needs NumPy only."""
