"""Which weight goes to which entry, so that rounding errors cancel in the outputs."""
