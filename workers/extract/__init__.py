"""Extract: candidate pairs out of pages and lists, whoever made them."""
