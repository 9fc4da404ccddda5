"""RMSNorm together with the update of the adapter before it."""
