"""Pages for people: one per patient, one of the cohort. Made from documents and tables alone."""
