"""Packing: label audit, order of cases, fixed-shape batches."""
