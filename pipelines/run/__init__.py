"""A run: configuration, directory, receipts, engines, services, progress."""
