"""The recipe of the model that the repository ships: `python -m examples.starter_model`."""
