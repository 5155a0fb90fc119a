"""The decoder in plain PyTorch: one layer as a function over its weights and a static key/value cache, batch 1."""

import torch
import torch.nn.functional as F


class Shape:
    def __init__(self, checkpoint):
        self.heads, self.kv_heads, self.head_dim, self.hidden = (
            checkpoint.heads,
            checkpoint.kv_heads,
            checkpoint.head_dim,
            checkpoint.hidden,
        )


def rms(x, gain):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * gain


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def layer(x, weights, keys, values, cos, sin, position, mask, shape):
    """x [S, hidden]; keys, values [kv_heads, rows, head_dim], written at `position`; mask [S, rows]: True is seen."""
    norm1, wq, wk, wv, wo, norm2, gate, up, down = weights
    rows = x.shape[0]
    h = rms(x, norm1)
    q = rotate(F.linear(h, wq).view(rows, shape.heads, shape.head_dim).transpose(0, 1), cos, sin)
    k = rotate(F.linear(h, wk).view(rows, shape.kv_heads, shape.head_dim).transpose(0, 1), cos, sin)
    v = F.linear(h, wv).view(rows, shape.kv_heads, shape.head_dim).transpose(0, 1)
    keys.index_copy_(1, position, k)
    values.index_copy_(1, position, v)
    out = F.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=mask, enable_gqa=True)[0]
    x = x + F.linear(out.transpose(0, 1).reshape(rows, -1), wo)
    h = rms(x, norm2)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)


class Positions:
    """Cosines, sines and the causal mask of a static cache of `rows` rows."""

    def __init__(self, inv_freq, rows, device):
        angles = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * inv_freq.to(device).float()[None]
        self.cos, self.sin = angles.cos(), angles.sin()
        self.keys = torch.arange(rows, device=device)

    def at(self, position):
        return self.cos[position], self.sin[position], self.keys[None, :] <= position[:, None]
