"""Prompts, corpora, layouts and templates: from files to rows of tokens."""
