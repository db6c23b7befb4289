"""What methods and steps that train have in common."""
