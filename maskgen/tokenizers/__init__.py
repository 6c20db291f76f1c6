"""Modality tokenizers: the front doors between media and codes."""
