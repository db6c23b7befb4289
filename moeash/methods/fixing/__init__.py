"""Weights fixed in stages to the entries of one codebook, the others trained on: WFN and PWFN."""
