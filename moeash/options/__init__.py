"""What a person may choose: kinds of values, and tables of them."""
