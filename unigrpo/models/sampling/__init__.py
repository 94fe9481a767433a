"""Samplers, which turn fully masked responses into text and image codes."""
