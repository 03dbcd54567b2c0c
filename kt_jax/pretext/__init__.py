"""Pretext tasks: (key, images) -> (inputs, labels), inside the jitted step."""
