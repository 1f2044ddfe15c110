"""Select: which embedded pairs go into the data set, step by step, and why."""
