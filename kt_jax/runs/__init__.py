"""A run: its stages, what they leave on disk, and what is done again."""
