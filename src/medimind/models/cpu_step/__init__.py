"""The float32 training step for CPUs, forward and backward written out by hand."""
