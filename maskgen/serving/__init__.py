"""Serving: many requests decode at once and share the forward passes of one model."""
