"""A specification and everything it produced."""
