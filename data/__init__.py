"""Clips: procedural and real, prepared into shards, loaded as batches. `portrait_jax` never imports it."""
