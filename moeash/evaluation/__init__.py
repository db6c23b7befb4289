"""What one candidate is worth: exact metrics, exact bytes, exact early stopping."""
