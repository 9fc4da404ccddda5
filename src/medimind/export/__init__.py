"""Export: adapters and merged models that other tools load."""
