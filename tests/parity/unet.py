"""Fixtures for crates/segkiln-models/tests/parity.rs: weights, input, output, gradients of PyTorch networks.

    $PYTHON tests/parity/unet.py        # needs torch and safetensors

The reference networks are written here from the papers with plain PyTorch layers. Their state dicts use the names of
`RENAME`'s left side; the Rust test maps them to the project's.
"""
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "../../crates/segkiln-models/tests/fixtures")


def norm(kind, channels):
    return {"batch": lambda: nn.BatchNorm2d(channels), "group": lambda: nn.GroupNorm(2, channels),
            "instance": lambda: nn.InstanceNorm2d(channels, affine=True), "none": lambda: None}[kind]()


class Block(nn.Module):
    def __init__(self, i, o, kind="batch", k=3, padding=1, act=F.relu):
        super().__init__()
        self.norm = norm(kind, o)
        self.conv = nn.Conv2d(i, o, k, padding=padding, bias=self.norm is None)
        self.act = act

    def forward(self, x):
        x = self.conv(x)
        x = self.norm(x) if self.norm is not None else x
        return self.act(x) if self.act else x


class Double(nn.Module):
    def __init__(self, i, o, **kw):
        super().__init__()
        self.first, self.second = Block(i, o, **kw), Block(o, o, **kw)

    def forward(self, x):
        return self.second(self.first(x))


class Up(nn.Module):
    """Transposed convolution, or bilinear resize then 1x1 convolution."""

    def __init__(self, i, o, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.ConvTranspose2d(i, o, 2, 2) if kind == "transposed" else nn.Conv2d(i, o, 1)

    def forward(self, x):
        if self.kind == "bilinear":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv(x)


class Encoder(nn.Module):
    def __init__(self, i, base, depth, **kw):
        super().__init__()
        self.levels = nn.ModuleList(Double(i if k == 0 else base << (k - 1), base << k, **kw) for k in range(depth))
        self.bottleneck = Double(base << (depth - 1), base << depth, **kw)

    def forward(self, x):
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
            x = F.max_pool2d(x, 2)
        return features, self.bottleneck(x)


def crop(x, like):
    h, w = like.shape[2:]
    t, l = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
    return x[:, :, t:t + h, l:l + w]


class UNet(nn.Module):
    def __init__(self, i, classes, base, depth, up="transposed", **kw):
        super().__init__()
        self.encoder = Encoder(i, base, depth, **kw)
        self.up = nn.ModuleList(Up(base << (k + 1), base << k, up) for k in reversed(range(depth)))
        self.decoder = nn.ModuleList(Double(base << (k + 1), base << k, **kw) for k in reversed(range(depth)))
        self.head = nn.Conv2d(base, classes, 1)

    def skip(self, k, below, x):
        return crop(x, below)

    def forward(self, x):
        features, x = self.encoder(x)
        for k, (up, dec) in enumerate(zip(self.up, self.decoder)):
            below = up(x)
            x = dec(torch.cat([self.skip(k, below, features.pop()), below], 1))
        return self.head(x)


class Gate(nn.Module):
    def __init__(self, channels, kind):
        super().__init__()
        inner = channels // 2
        kw = dict(k=1, padding=0, act=None)
        self.signal, self.skip = Block(channels, inner, kind, **kw), Block(channels, inner, kind, **kw)
        self.psi = Block(inner, 1, kind, **kw)

    def forward(self, g, x):
        self.weights = torch.sigmoid(self.psi(F.relu(self.signal(g) + self.skip(x))))
        return x * self.weights


class AttentionUNet(UNet):
    def __init__(self, i, classes, base, depth, kind="batch"):
        super().__init__(i, classes, base, depth, kind=kind)
        self.gates = nn.ModuleList(Gate(base << k, kind) for k in reversed(range(depth)))

    def skip(self, k, below, x):
        return self.gates[k](below, x)


class Node(nn.Module):
    def __init__(self, base, level, column, **kw):
        super().__init__()
        self.up = Up(base << (level + 1), base << level, "transposed")
        self.conv = Double((column + 1) * (base << level), base << level, **kw)


class UNetPlusPlus(nn.Module):
    def __init__(self, i, classes, base, depth, deep, **kw):
        super().__init__()
        self.encoder = Encoder(i, base, depth, **kw)
        self.columns = nn.ModuleList(
            nn.ModuleList(Node(base, level, column, **kw) for level in range(depth - column + 1)) for column in range(1, depth + 1))
        self.heads = nn.ModuleList(nn.Conv2d(base, classes, 1) for _ in range(depth if deep else 1))

    def forward(self, x):
        features, bottom = self.encoder(x)
        rows = [[f] for f in features + [bottom]]
        for column, nodes in enumerate(self.columns):
            for level, node in enumerate(nodes):
                below = node.up(rows[level + 1][column])
                rows[level].append(node.conv(torch.cat(rows[level] + [below], 1)))
        top = rows[0][-len(self.heads):]
        return torch.stack([h(t) for h, t in zip(self.heads, top)]).mean(0)


CASES = {
    "unet_batch": (UNet(3, 2, 4, 2), (2, 3, 16, 24)),
    "unet_bilinear_group": (UNet(1, 3, 4, 2, up="bilinear", kind="group"), (2, 1, 16, 16)),
    "unet_instance_gelu": (UNet(2, 1, 4, 2, kind="instance", act=F.gelu), (1, 2, 24, 16)),
    "unet_paper": (UNet(1, 2, 4, 2, kind="none", padding=0), (1, 1, 60, 68)),
    "attention": (AttentionUNet(1, 2, 4, 2), (2, 1, 16, 16)),
    "plus_plus": (UNetPlusPlus(1, 2, 4, 2, False), (2, 1, 16, 16)),
    "plus_plus_deep": (UNetPlusPlus(1, 2, 4, 2, True), (2, 1, 16, 16)),
}


def main():
    os.makedirs(OUT, exist_ok=True)
    for seed, (name, (model, shape)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        for p in model.parameters():
            nn.init.normal_(p, 0.0, 0.3) if p.dim() > 1 else nn.init.uniform_(p, 0.5, 1.5)
        for b in model.buffers():
            if b.dtype.is_floating_point:
                nn.init.uniform_(b, 0.5, 1.5)
        before = {f"state.{k}": v.clone() for k, v in model.state_dict().items() if v.dtype.is_floating_point}
        x = torch.randn(shape)
        evaluated = model.eval()(x).detach()
        gates = {f"gates.{k}.psi": gate.weights.detach().clone() for k, gate in enumerate(getattr(model, "gates", []))}
        model.train()
        trained = model(x)
        weight = torch.randn_like(trained)
        (trained * weight).sum().backward()
        after = {f"after.{k}": v.clone() for k, v in model.state_dict().items() if "running" in k}
        first = model.encoder.levels[0].first.conv.weight.grad
        save_file({**before, **after, **gates, "x": x, "evaluated": evaluated, "trained": trained.detach(), "weight": weight,
                   "grad.first": first, "grad.last": (model.heads[-1] if hasattr(model, "heads") else model.head).weight.grad},
                  os.path.join(OUT, f"{name}.safetensors"))


if __name__ == "__main__":
    main()
