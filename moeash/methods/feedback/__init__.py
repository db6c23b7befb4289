"""Second-order error feedback on one global codebook: the house method."""
