"""Rows of an embedding table that may lie in pinned host memory."""

from medimind.kernels.embedding.op import gather_rows

__all__ = ["gather_rows"]
