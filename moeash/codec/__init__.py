"""SharedWeights <-> bytes, exactly. Reading needs NumPy and constriction only."""
