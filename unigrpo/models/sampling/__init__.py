"""Samplers: from all-masked responses to text and image codes."""
