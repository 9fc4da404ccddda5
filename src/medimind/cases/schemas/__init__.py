"""What the columns of a source mean."""
