"""The HTTP service: studies, their fronts and exports for a page and for programs."""
