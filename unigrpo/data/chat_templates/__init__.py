"""Rendering of the chat templates of checkpoints within limits of time and memory."""
