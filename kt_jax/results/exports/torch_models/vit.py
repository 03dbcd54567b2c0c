"""A vision transformer without a head; the parameters have timm's names."""

import torch
from preprocessing import Preprocessing
from torch import Tensor, nn
from torch.nn import functional


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; embedding, block1, ..., class_token out.

    side: the number of rows (and of columns) of patches of the position embeddings.
    """

    def __init__(
        self, dim, depth, heads, patch, side, layer_scale, registers, mean=(), deviation=()
    ):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        self.side = side
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.blocks = nn.ModuleList([Block(dim, heads, layer_scale) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of the patches [n, d, rows, columns]; the output is class_token [n, d]."""
        x = self.patch_embed["proj"](self.preprocessing(images))
        first, grid = self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, (self.side, self.side))
        shape = x.shape[2:]
        if shape != grid.shape[2:]:
            grid = functional.interpolate(grid, size=shape, mode="bicubic", antialias=True)
        x = x + grid
        activations = {"embedding": x}
        if self.register_tokens is not None:
            first = torch.cat([first, self.register_tokens], 1)
        count = first.shape[1]
        x = torch.cat([first.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            activations[f"block{number}"] = x[:, count:].transpose(1, 2).unflatten(2, shape)
        activations["class_token"] = self.norm(x[:, 0])
        return activations


class Block(nn.Module):
    """Attention and an MLP. Each has a layer norm before it, and is added to its input."""

    def __init__(self, dim, heads, layer_scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = Scale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)
        self.ls2 = Scale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, d]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, d]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        made = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(made.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, d]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Scale(nn.Module):
    """A learned factor of each channel."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, d]."""
        return x * self.gamma
