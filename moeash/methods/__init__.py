"""Ways from (network, candidate) to SharedWeights, behind one protocol."""
