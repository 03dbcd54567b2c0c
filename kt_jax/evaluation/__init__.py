"""Frozen backbones: their features, and which of the test images they have seen."""
