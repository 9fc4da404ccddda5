"""Cases: rows of any source, validated, deduplicated and split."""
