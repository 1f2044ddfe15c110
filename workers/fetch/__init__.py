"""Fetching images: a shard of pairs to a shard of images."""
