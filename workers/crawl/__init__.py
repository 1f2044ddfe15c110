"""Crawl: polite fetching of pages, a host at a time, into WARC files."""
