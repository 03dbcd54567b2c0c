"""Frozen backbones: their features, their scores, and leakage."""
