"""Grading cleans a response, extracts its answer and compares it with the gold by the kind of the gold."""
