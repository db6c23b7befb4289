"""How a solution leaves the house: verified files and pictures."""
