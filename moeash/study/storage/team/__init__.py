"""What people do with studies: labels, launches, lists, and numbers for monitoring."""
