"""Weights of others are found in their files, or it is said in one line why not."""

import functools

import jax
import numpy as np
import pytest

from kt_jax.evaluation import backbones
from kt_jax.models import torch_matching, torch_names

VGG = {"name": "vgg", "channels": (4, 8), "convs": (1, 1)}
RESNET = {"name": "resnet18", "width": 0.0625, "stem": 4}
VIT = {"name": "vit_s", "head_dim": 4, "depth": 2, "patch": 4, "registers": 2}


def make(architecture, size=32):
    """A network's arrays, what they are like, and its tensors by PyTorch's names."""
    like, rng = _shapes(tuple(architecture.items()), size), np.random.default_rng(0)
    arrays = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)
    return arrays, like, torch_names.to_torch(architecture, *arrays)


@functools.cache
def _shapes(architecture, size):
    return backbones.variable_shapes(backbones.describe(dict(architecture), size))


def assert_loaded(architecture, tensors, expected, like, **options):
    found = torch_matching.load(architecture, tensors, like, **options)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def behind(prefix, tensors):
    return {f"{prefix}{name}": x for name, x in tensors.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "state_dict.module.backbone."])
@pytest.mark.parametrize("architecture", [VGG, RESNET, VIT], ids=lambda each: each["name"])
def test_names_may_stand_behind_anything(architecture, prefix):
    arrays, like, tensors = make(architecture)
    heads = {"fc.weight": np.zeros((10, 32)), "head.bias": np.zeros(10), "classifier.0.bias": 0}
    counts = {"bn1.num_batches_tracked": np.zeros((), np.int64)}
    found = behind(prefix, {**tensors, **heads, **counts})
    assert_loaded(architecture, found, arrays, like)
    # Beside a network that has a name, other things may stand.
    if prefix:
        others = {"optimizer.momentum": np.zeros(3), "epoch": np.zeros(())}
        assert_loaded(architecture, found | others, arrays, like)


def test_half_precision_is_read():
    arrays, like, tensors = make(VGG)
    half = {name: x.astype(np.float16) for name, x in tensors.items()}
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), arrays)
    assert_loaded(VGG, half, expected, like)


def test_of_a_teacher_and_a_student_the_teacher_is_taken():
    arrays, like, tensors = make(RESNET)
    other = {name: x + 1 for name, x in tensors.items()}
    both = behind("student.module.backbone.", other) | behind("teacher.backbone.", tensors)
    assert_loaded(RESNET, both, arrays, like)


@pytest.mark.parametrize("better", ["ema.", "model_ema.module.", "state_dict_ema."])
def test_the_average_of_the_weights_is_taken(better):
    arrays, like, tensors = make(RESNET)
    other = {name: x + 1 for name, x in tensors.items()}
    both = behind("semantic.", other) | behind(better, tensors)
    assert_loaded(RESNET, both, arrays, like)


def test_a_word_within_a_word_says_nothing():
    _, like, tensors = make(RESNET)
    both = behind("semantic.", tensors) | behind("model.", tensors)
    with pytest.raises(ValueError, match=r"2 times, with the prefixes 'model\.' and 'semantic\.'"):
        torch_matching.load(RESNET, both, like)


def test_of_two_equal_networks_one_has_to_be_named():
    arrays, like, tensors = make(RESNET)
    other = {name: x + 1 for name, x in tensors.items()}
    both = behind("module.encoder_q.", tensors) | behind("module.encoder_k.", other)
    message = (
        r"2 times, with the prefixes 'module\.encoder_k\.' and 'module\.encoder_q\.': choose one"
    )
    with pytest.raises(ValueError, match=message):
        torch_matching.load(RESNET, both, like)
    for prefix in ("module.encoder_q", "module.encoder_q."):
        assert_loaded(RESNET, both, arrays, like, prefix=prefix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("features.3.bias"), r"1 missing: features\.3\.bias$"),
        (lambda x: x.update(extra=np.zeros(3)), r"1 unknown: extra$"),
        (
            lambda x: x.update({"features.0.weight": np.zeros((4, 3, 5, 5))}),
            r"1 of another shape: features\.0\.weight \(4, 3, 5, 5\), not \(4, 3, 3, 3\)$",
        ),
        (
            lambda x: x.update({f"features.1.running_{n}": np.zeros(4) for n in "abcd"}),
            r"4 unknown such as features\.1\.running_a, features\.1\.running_b, features\.1\.runn",
        ),
        (
            lambda x: x.update({"features.1.running_mean": np.zeros(4)}),
            r"1 unknown: features\.1\.running_mean\. Its backbone\.batch_norm may be True$",
        ),
        (
            lambda x: x.update({"features.0.bias": np.zeros(4, np.int8)}),
            r"1 not of floating point: features\.0\.bias$",
        ),
        (
            lambda x: x.update({"features.0.bias": np.full(4, np.nan, np.float16)}),
            r"1 not finite: features\.0\.bias$",
        ),
        (
            lambda x: x.update({"features.0.bias": np.full(4, 1e300)}),
            r"1 not finite: features\.0\.bias$",
        ),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    _, like, tensors = make(VGG)
    change(tensors)
    begin = "the tensors are not those of a vgg with these options: "
    with pytest.raises(ValueError, match=f"^{begin}{message}"):
        torch_matching.load(VGG, tensors, like)


def test_another_network_is_said():
    _, like, tensors = make(VGG)
    with pytest.raises(
        ValueError,
        match=r"it has no resnet18, whose tensors are conv1\.weight, bn1\.weight, bn1\.bias and "
        r"so on: its tensors are features\.0\.bias, features\.0\.weight, features",
    ):
        torch_matching.load(RESNET, tensors, make(RESNET)[1])
    with pytest.raises(ValueError, match="its tensors are none"):
        torch_matching.load(VGG, {}, like)


def test_position_embeddings_say_the_size():
    _, _, tensors = make(VIT, 48)
    _, like, _ = make(VIT, 32)
    message = r"pos_embed \(1, 145, 24\), not \(1, 65, 24\)\. They are of 12 x 12 .* size = 48 fits"
    with pytest.raises(ValueError, match=message):
        torch_matching.load(VIT, tensors, like)


@pytest.mark.parametrize("number", range(8))
def test_vits_are_read_by_all_names(number):
    arrays, like, _ = make(VIT)
    tensors = torch_names.arrange(torch_names.tables(VIT)[number], *arrays)
    assert_loaded(VIT, behind("vit.", tensors), arrays, like)


def test_position_embeddings_may_lack_the_class_token():
    (params, batch_stats), like, tensors = make(VIT)
    params["positions"][0] = 0
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    assert_loaded(VIT, tensors, (params, batch_stats), like)
