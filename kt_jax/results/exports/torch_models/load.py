"""Gives the network with its weights, in evaluation mode."""

import json
from pathlib import Path

from model import Network
from safetensors.torch import load_file


def load(folder=Path(__file__).parent) -> Network:
    """Reads config.json and weights.safetensors."""
    network = Network(**json.loads((Path(folder) / "config.json").read_text())["network"])
    network.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return network.eval()
