"""Acceleration: models that compute less per call (KV cache, token merging, shortcut, local attention), are compiled, or run in 8 bits."""
