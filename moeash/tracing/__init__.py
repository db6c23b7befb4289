"""Which layer reads what: uses of weights, their patches, passes that watch them."""
