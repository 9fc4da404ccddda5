"""Recording a run: trackers and provenance."""
