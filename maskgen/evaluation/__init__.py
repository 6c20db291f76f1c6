"""Scores of what was generated."""
