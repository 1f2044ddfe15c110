"""A run that grows night after night, held against what was promised of it."""
