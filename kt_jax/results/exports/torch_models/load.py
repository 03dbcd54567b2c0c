"""Loads the network of this folder in PyTorch."""

import json
from pathlib import Path

from model import Network
from safetensors.torch import load_file


def load(folder=Path(__file__).parent) -> Network:
    """Loads config.json and weights.safetensors. Returns the network in evaluation mode."""
    network = Network(**json.loads((Path(folder) / "config.json").read_text())["network"])
    network.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return network.eval()
