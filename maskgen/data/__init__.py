"""Sources, shards and data modules."""
