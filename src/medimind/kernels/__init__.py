"""Operations of the training step, each with a reference."""
