"""Embed: CLIP over shards of pictures and captions."""
