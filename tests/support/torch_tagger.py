"""RAM's tagging in PyTorch, written from its description: the independent reference.

State-dict names are the original's, so regenerated weights load with `load_state_dict`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tvt_jax.config import TaggerConfig


class Attention(nn.Module):
    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        position = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offset = position[:, None] - position[None] + window - 1
        self.index = offset[..., 0] * (2 * window - 1) + offset[..., 1]

    def forward(self, x, mask):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            scores = scores.view(-1, len(mask), *scores.shape[1:]) + mask[:, None]
            scores = scores.view(batch, self.heads, tokens, tokens)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    def __init__(self, dim, heads, side, window, odd, hidden):
        super().__init__()
        self.window = min(window, side)
        self.shift = window // 2 if odd and side > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, self.window)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
        self.mask = None
        if self.shift:
            label = torch.zeros(side, side)
            borders = (
                (0, side - window),
                (side - window, side - self.shift),
                (side - self.shift, side),
            )
            for number, (rows, columns) in enumerate((r, c) for r in borders for c in borders):
                label[slice(*rows), slice(*columns)] = number
            label = self.windows(label[None, ..., None])[..., 0]
            self.mask = (label[:, :, None] != label[:, None, :]).float() * -100.0

    def windows(self, x):
        x = x.unfold(1, self.window, self.window).unfold(2, self.window, self.window)
        return x.permute(0, 1, 2, 4, 5, 3).reshape(-1, self.window**2, x.shape[3])

    def forward(self, x):
        batch, height, width, dim = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = self.attn(self.windows(y), self.mask)
        y = y.view(batch, height // self.window, -1, self.window, self.window, dim)
        y = torch.cat([torch.cat(list(row.unbind(1)), 2) for row in y.unbind(1)], 1)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Merging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        a, b = x[:, 0::2], x[:, 1::2]
        x = torch.cat([a[:, :, 0::2], b[:, :, 0::2], a[:, :, 1::2], b[:, :, 1::2]], -1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    def __init__(self, config: TaggerConfig, number):
        super().__init__()
        dim, side = config.stage_widths[number], config.stage_resolutions[number]
        self.blocks = nn.ModuleList(
            Block(
                dim, config.num_heads[number], side, config.window_size, j % 2,
                int(dim * config.mlp_ratio),
            )
            for j in range(config.depths[number])
        )  # fmt: skip
        last = number == len(config.depths) - 1
        self.downsample = nn.Identity() if last else Merging(dim)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class Encoder(nn.Module):
    def __init__(self, config: TaggerConfig):
        super().__init__()
        patch, dim = config.patch_size, config.embed_dim
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, dim, patch, patch), "norm": nn.LayerNorm(dim)}
        )
        self.layers = nn.ModuleList(Stage(config, n) for n in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.stage_widths[-1])

    def forward(self, images):
        x = self.patch_embed["norm"](self.patch_embed["proj"](images).permute(0, 2, 3, 1))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x).flatten(1, 2)
        return torch.cat([x.mean(1, keepdim=True), x], 1)


def _output(features, config: TaggerConfig):
    width = config.hidden_size
    return nn.ModuleDict(
        {"dense": nn.Linear(features, width), "LayerNorm": nn.LayerNorm(width, 1e-12)}
    )


def _head_layer(config: TaggerConfig):
    width, image = config.hidden_size, config.projection_dim
    inner = {"query": nn.Linear(width, width), "key": nn.Linear(image, width)}
    inner["value"] = nn.Linear(image, width)
    attention = {"self": nn.ModuleDict(inner), "output": _output(width, config)}
    return nn.ModuleDict(
        {
            "crossattention": nn.ModuleDict(attention),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(width, config.intermediate_size)}),
            "output": _output(config.intermediate_size, config),
        }
    )


class TorchTagger(nn.Module):
    def __init__(self, config: TaggerConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.visual_encoder = Encoder(config)
        self.image_proj = nn.Linear(config.stage_widths[-1], config.projection_dim)
        self.label_embed = nn.Parameter(torch.zeros(config.num_classes, config.projection_dim))
        self.wordvec_proj = nn.Linear(config.projection_dim, config.hidden_size)
        layers = nn.ModuleList(_head_layer(config) for _ in range(config.num_hidden_layers))
        encoder = nn.ModuleDict({"layer": layers})
        self.tagging_head = nn.ModuleDict({"encoder": encoder})
        self.fc = nn.Linear(config.hidden_size, 1)

    def cross_attention(self, parts, x, image):
        def split(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        inner = parts["self"]
        q, k, v = split(inner["query"](x)), split(inner["key"](image)), split(inner["value"](image))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        out = (weights @ v).transpose(1, 2).flatten(2)
        return parts["output"]["LayerNorm"](parts["output"]["dense"](out) + x)

    @torch.no_grad()
    def forward(self, images):
        """Maps normalised images [B, 3, S, S] to logits [B, K]."""
        image = self.image_proj(self.visual_encoder(images))
        x = F.relu(self.wordvec_proj(self.label_embed)).expand(len(image), -1, -1)
        for layer in self.tagging_head["encoder"]["layer"]:
            x = self.cross_attention(layer["crossattention"], x, image)
            wide = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](layer["output"]["dense"](wide) + x)
        return self.fc(x).squeeze(-1)
