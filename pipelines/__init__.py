"""The stages put in order and started: configuration, run directory, receipts, command line."""
