"""Transformers, critics and the smaller networks around them."""
