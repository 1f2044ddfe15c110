"""What all work on shards and records stands on: contracts, settings, storage, streams, counts."""
