"""Fetching pictures: a shard of pairs to a shard of pictures."""
