"""Networks inside the learned tokenizers."""
