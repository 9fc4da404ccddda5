"""The likeliest token of each row of logits, and whether they are finite."""
