"""Pairs: candidates cleaned, matched with the queries, balanced and written."""
