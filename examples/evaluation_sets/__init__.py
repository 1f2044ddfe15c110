"""Labelled and captioned pictures that packages carry, laid out for `examples/suite.yaml`."""
