"""Prompt files, task layouts and batches."""
