"""Products with weights that stay in NF4, for few rows."""
