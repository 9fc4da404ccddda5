"""SwiGLU together with the skinny products of the adapters before and after it."""
