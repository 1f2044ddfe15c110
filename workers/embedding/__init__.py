"""Embed: CLIP over shards of images and captions."""
