"""The report of an evaluation: tables, figures and all results as JSON."""
