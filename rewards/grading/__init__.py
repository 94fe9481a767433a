"""Exact grading: clean the text, extract the answer, compare by kind. Nothing here is a reward by itself."""
