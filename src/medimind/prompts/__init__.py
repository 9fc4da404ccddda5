"""Prompts: cases as token ids with a target mask, and outputs read back."""
