"""Exported networks in PyTorch and ONNX: every architecture, fine-tuning, and the page's script."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import support
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from kt_jax.results import exports
from kt_jax.results.exports import network as networks

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/export.md"
# Of each: the options, the side it learned from, and the side that it is exported for.
NETWORKS = {
    "alexnet": ({"channels": (8,) * 5}, 33, 33),
    "alexnet, batch_norm": ({"channels": (8,) * 5, "batch_norm": True}, 64, 70),
    "alexnet_torchvision": ({"channels": (8,) * 5}, 64, 64),
    "vgg11": ({"width": 0.1, "batch_norm": True}, 33, 33),
    "vgg16": ({"width": 0.1, "final_pool": False}, 16, 48),
    "resnet18": ({"width": 0.1}, 12, 12),
    "resnet50": ({"width": 0.1}, 97, 97),
    "mobilenet_v3_small": ({"width": 0.25}, 33, 33),
    "vit_ti": ({"head_dim": 8, "depth": 2}, 32, 32),
    "vit_s": ({"head_dim": 8, "depth": 2, "layer_scale": True, "registers": 2}, 32, 50),
}


def load(folder, monkeypatch):
    """The network in an exported folder, as a user's script loads it."""
    monkeypatch.syspath_prepend(folder)
    for name in ("load", "model", "preprocessing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import load

    return load.load()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_is_the_same_in_torch_and_onnx(name, tmp_path, monkeypatch):
    options, size, shown = NETWORKS[name]
    channels = {"mean": (100.0, 110.0, 120.0), "deviation": (60.0, 61.0, 62.0)}
    given = channels if size == 33 else {}
    architecture = {"name": name.split(",")[0], **options}
    support.make_backbone(tmp_path / "student", architecture, size, **given)
    for to in ("torch", "onnx"):
        exports.export(tmp_path / "student", to=to, out=tmp_path / to, size=shown)
    network, _ = networks.open_network(tmp_path / "student", size=shown)
    images = np.random.default_rng(7).integers(0, 256, (2, shown, shown, 3)).astype(np.uint8)
    expected = networks.compute(network, images)
    with torch.no_grad():
        first = torch.from_numpy(images).permute(0, 3, 1, 2)
        in_torch = {
            layer: x.movedim(1, -1).numpy()
            for layer, x in load(tmp_path / "torch", monkeypatch)(first).items()
        }
    session = onnxruntime.InferenceSession(tmp_path / "onnx/network.onnx")
    outputs = [output.name for output in session.get_outputs()]
    in_onnx = dict(zip(outputs, session.run(None, {"images": images}), strict=True))
    for found in (in_torch, in_onnx):
        assert list(found) == list(expected)
        for layer, value in expected.items():
            assert found[layer].shape == value.shape, layer
            assert np.abs(found[layer] - value).max() < 1e-4 * np.abs(value).max(), layer


def test_weights_are_those_of_torchvisions_class(tmp_path, monkeypatch):
    support.make_backbone(tmp_path / "student", {"name": "resnet18"}, 96)
    exports.export(tmp_path / "student", to="torch", out=tmp_path / "torch")
    twin = torchvision.models.resnet18().eval()
    told = twin.load_state_dict(load_file(tmp_path / "torch/weights.safetensors"), strict=False)
    assert told.unexpected_keys == []
    assert {name.split(".")[0] for name in told.missing_keys if "num_batches" not in name} == {"fc"}
    twin.fc = torch.nn.Identity()
    network = load(tmp_path / "torch", monkeypatch)
    images = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = network(images)["average"], twin(network.preprocessing(images))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_exported_student_is_fine_tuned(tmp_path, monkeypatch):
    architecture = {"name": "alexnet", "channels": (8,) * 5, "batch_norm": True}
    support.make_backbone(tmp_path / "student", architecture, 48)
    exports.export(tmp_path / "student", to="torch", out=tmp_path / "torch")
    network = load(tmp_path / "torch", monkeypatch).train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 48, 48), generator=generator, dtype=torch.uint8)
    labels = torch.arange(16) % 4
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], 0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        logits = head(network(images)["conv5"].mean((2, 3)))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    after = network.state_dict()
    # A bias in front of a batch norm has no gradient.
    learned = [name for name in before if name.endswith(("weight", "running_mean"))]
    assert len(learned) == 15
    assert not any(torch.equal(after[name], before[name]) for name in learned)


def test_the_script_of_the_page_trains_a_head(tmp_path):
    """On red, green, ... images: ten classes that any features tell apart."""
    script, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    architecture = {"name": "alexnet", "channels": (8,) * 5, "batch_norm": True}
    support.make_backbone(tmp_path / "run", architecture, 96)
    exports.export(tmp_path / "run", to="torch", out=tmp_path / "student")
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (10, 1, 1, 3))
    for split in ("train", "test"):
        for place in range(100):
            path = tmp_path / "photos" / split / f"class{place % 10}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noisy = colours[place % 10] + generator.normal(0, 20, (100, 110, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    share = re.fullmatch(r"(\d+\.\d)% of 100 test images\n", done.stdout)
    assert share is not None, done.stdout
    assert float(share[1]) > 80
