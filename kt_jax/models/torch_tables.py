"""The tensors of each architecture by our names and by PyTorch's; see `torch_names`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kt_jax.models.mobilenet import BLOCKS, in_eights

Path = tuple[str | int, ...]
Table = tuple["Row", ...]


@dataclass(frozen=True)
class Row:
    """Tensors that correspond. Several on one side are the parts of the other's first axis."""

    ours: tuple[Path, ...]
    """Their paths in {"params": ..., "batch_stats": ...}."""
    theirs: tuple[str, ...]
    layout: str = "as it is"


def _conv(ours: Path, theirs: str, *, bias: bool = True) -> Iterator[Row]:
    yield Row((("params", *ours, "kernel"),), (f"{theirs}.weight",), "convolution")
    if bias:
        yield Row((("params", *ours, "bias"),), (f"{theirs}.bias",))


def _linear(ours: Path, *theirs: str) -> Iterator[Row]:
    kernel, bias = (("params", *ours, each) for each in ("kernel", "bias"))
    # in_proj_weight is one name: a parameter of PyTorch's MultiheadAttention itself.
    dots = ["_" if each.endswith(".in_proj") else "." for each in theirs]
    pairs = list(zip(theirs, dots, strict=True))
    yield Row((kernel,), tuple(f"{name}{dot}weight" for name, dot in pairs), "linear")
    yield Row((bias,), tuple(f"{name}{dot}bias" for name, dot in pairs))


def _norm(ours: Path, theirs: str, *, running: bool = True) -> Iterator[Row]:
    yield Row((("params", *ours, "scale"),), (f"{theirs}.weight",))
    yield Row((("params", *ours, "bias"),), (f"{theirs}.bias",))
    if running:
        yield Row((("batch_stats", *ours, "mean"),), (f"{theirs}.running_mean",))
        yield Row((("batch_stats", *ours, "var"),), (f"{theirs}.running_var",))


def _conv_norm(ours: Path, conv: str, norm: str) -> Iterator[Row]:
    yield from _conv((*ours, "conv"), conv, bias=False)
    yield from _norm((*ours, "norm"), norm)


def vgg(chosen: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a VGG, with the names of torchvision."""
    place = 0  # in the Sequential: convolutions, norms, ReLUs and poolings
    for number, depth in enumerate(chosen["convs"]):
        for layer in range(depth):
            ours = ("blocks", number, layer)
            yield from _conv((*ours, "conv"), f"features.{place}")
            if chosen["batch_norm"]:
                yield from _norm((*ours, "norm"), f"features.{place + 1}")
            place += 3 if chosen["batch_norm"] else 2
        place += 1


def alexnet(chosen: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of the paper's AlexNet, whose groups are one tensor there, or with batch norms."""
    for number in range(5):
        ours, theirs = ("layers", number, "conv"), f"conv{number + 1}"
        if chosen["batch_norm"]:
            yield from _conv(ours, theirs)
            yield from _norm(("layers", number, "norm"), f"norm{number + 1}")
        elif number in (1, 3, 4):
            groups = [("params", *ours, "convs", group) for group in range(2)]
            kernels, biases = (
                tuple((*group, each) for group in groups) for each in ("kernel", "bias")
            )
            yield Row(kernels, (f"{theirs}.weight",), "convolution")
            yield Row(biases, (f"{theirs}.bias",))
        else:
            yield from _conv(ours, theirs)


def torchvision_alexnet() -> Iterator[Row]:
    """The rows of torchvision's AlexNet."""
    for number, place in enumerate((0, 3, 6, 8, 10)):
        yield from _conv(("convs", number), f"features.{place}")


def resnet(chosen: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a ResNet, with the names of torchvision and timm."""
    yield from _conv_norm(("conv1",), "conv1", "bn1")
    for number, count in enumerate(chosen["blocks"]):
        for place in range(count):
            ours, theirs = ("stages", number, place), f"layer{number + 1}.{place}"
            for conv in range(3 if chosen["bottleneck"] else 2):
                names = f"{theirs}.conv{conv + 1}", f"{theirs}.bn{conv + 1}"
                yield from _conv_norm((*ours, "convs", conv), *names)
            if place == 0 and (number > 0 or chosen["bottleneck"]):
                names = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
                yield from _conv_norm((*ours, "shortcut"), *names)


def mobilenet(chosen: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a MobileNetV3-Small, with the names of torchvision."""
    yield from _conv_norm(("conv1",), "features.0.0", "features.0.1")
    inputs = in_eights(chosen["width"] * 16)
    for number, (_, expanded, outputs, squeezes, *_) in enumerate(BLOCKS):
        ours, theirs, place = ("blocks", number), f"features.{number + 1}.block", 0
        if in_eights(chosen["width"] * expanded) != inputs:
            yield from _conv_norm((*ours, "expand"), f"{theirs}.0.0", f"{theirs}.0.1")
            place = 1
        yield from _conv((*ours, "depthwise"), f"{theirs}.{place}.0", bias=False)
        yield from _norm((*ours, "norm"), f"{theirs}.{place}.1")
        if squeezes:
            place += 1
            yield from _conv((*ours, "squeeze", "reduce"), f"{theirs}.{place}.fc1")
            yield from _conv((*ours, "squeeze", "excite"), f"{theirs}.{place}.fc2")
        names = f"{theirs}.{place + 1}.0", f"{theirs}.{place + 1}.1"
        yield from _conv_norm((*ours, "project"), *names)
        inputs = in_eights(chosen["width"] * outputs)
    last = f"features.{len(BLOCKS) + 1}"
    yield from _conv_norm(("conv2",), f"{last}.0", f"{last}.1")


def vit(chosen: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a ViT, with one of `VIT_NAMES`."""
    yield Row((("params", "class_token"),), (names["class_token"],), "tokens")
    yield Row((("params", "positions"),), (names["positions"],), "positions")
    if chosen["registers"]:
        yield Row((("params", "registers"),), (names["registers"],), "tokens")
    yield from _conv(("patches",), names["patches"])
    for number in range(chosen["depth"]):
        block = names["block"].format(number)
        for norm in ("norm1", "norm2"):
            yield from _norm(("blocks", number, norm), block + names[norm], running=False)
        for layer in ("qkv", "projection", "fc1", "fc2"):
            several = names[layer] if isinstance(names[layer], tuple) else (names[layer],)
            yield from _linear(("blocks", number, layer), *(block + each for each in several))
        if chosen["layer_scale"]:
            for scale in ("scale1", "scale2"):
                yield Row((("params", "blocks", number, scale),), (block + names[scale],))
    yield from _norm(("norm",), names["norm"], running=False)


# Register tokens have two names: DINOv2's and timm's.
_TIMM = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "registers": "register_tokens",
    "patches": "patch_embed.proj",
    "block": "blocks.{}.",
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "projection": "attn.proj",
    "scale1": "ls1.gamma",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "ls2.gamma",
    "norm": "norm",
}
# torchvision has no registers and no layer scale: no file has the names below for them.
_TORCHVISION = {
    **_TIMM,
    "class_token": "class_token",
    "positions": "encoder.pos_embedding",
    "patches": "conv_proj",
    "block": "encoder.layers.encoder_layer_{}.",
    "norm1": "ln_1",
    "qkv": "self_attention.in_proj",
    "projection": "self_attention.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.0",
    "fc2": "mlp.3",
    "norm": "encoder.ln",
}
# Dinov2Model, as in files of the Hub.
_TRANSFORMERS = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "registers": "embeddings.register_tokens",
    "patches": "embeddings.patch_embeddings.projection",
    "block": "encoder.layer.{}.",
    "norm1": "norm1",
    "qkv": tuple(f"attention.attention.{each}" for each in ("query", "key", "value")),
    "projection": "attention.output.dense",
    "scale1": "layer_scale1.lambda1",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "layer_scale2.lambda1",
    "norm": "layernorm",
}
# As transformers 5 names the modules in memory.
_TRANSFORMERS_5 = {
    "qkv": tuple(f"attention.{each}_proj" for each in "qkv"),
    "projection": "attention.o_proj",
}
_TRANSFORMERS_VIT = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
VIT_NAMES: tuple[Mapping[str, Any], ...] = (
    _TIMM,
    {**_TIMM, "registers": "reg_token"},
    _TORCHVISION,
    # As torchvision's files have it.
    {**_TORCHVISION, "fc1": "mlp.linear_1", "fc2": "mlp.linear_2"},
    _TRANSFORMERS,
    {**_TRANSFORMERS, **_TRANSFORMERS_5},
    {**_TRANSFORMERS, **_TRANSFORMERS_VIT, "fc1": "intermediate.dense", "fc2": "output.dense"},
    {**_TRANSFORMERS, **_TRANSFORMERS_5, **_TRANSFORMERS_VIT, "block": "layers.{}."},
)
