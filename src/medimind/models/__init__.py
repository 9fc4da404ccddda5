"""Models: decoder, weights, adapters, generation."""
