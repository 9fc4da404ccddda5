"""Readers of rows: bounded memory, every row with the line it starts on."""
