"""Evaluation: before and after, statistics, reports."""
