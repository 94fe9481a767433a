"""Adapters to tools of other projects, which are imported only by their module here."""
