"""Weight Fixing Networks: sums of few powers of two, fixed in stages while training."""
