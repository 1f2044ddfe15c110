"""The work done on one shard or one record: one file for each kind of work."""
