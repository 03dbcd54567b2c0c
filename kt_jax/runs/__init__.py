"""A run: its stages, the artifacts that they write, and how it resumes."""
