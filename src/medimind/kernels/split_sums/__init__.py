"""What comes after a product whose inputs were cut into stretches."""
