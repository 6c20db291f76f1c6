"""Tokenizers that convert media of each modality to discrete codes and back."""
