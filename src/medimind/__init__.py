"""MediMind: tune an open reasoning model on medical cases, and prove whether it got better."""

__version__ = "0.1.0"
