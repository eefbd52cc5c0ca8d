"""Fixture for the 3D U-Net in crates/segkiln-models: PyTorch's logits, loss, gradients and statistics of a training step.

    $PYTHON tests/parity/unet3d.py            # needs torch and safetensors

writes crates/segkiln-models/tests/fixtures/unet3d.safetensors. Weights by the formula of rcnn.py, volumes and weights of the loss from its noise.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from rcnn import OUT, formula, noise

# Norm, activation, channels of a level's convolutions, residual encoder, deep supervision, shape of the volumes.
CASES = {
    "even": (nn.BatchNorm3d, nn.ReLU, lambda c: (c, c), False, False, (2, 1, 8, 12, 20)),
    "paper": (nn.BatchNorm3d, nn.ReLU, lambda c: (c, 2 * c), False, False, (1, 3, 4, 16, 8)),
    "residual": (lambda c: nn.InstanceNorm3d(c, affine=True), lambda: nn.LeakyReLU(0.01), lambda c: (c, c), True, True, (2, 2, 8, 8, 8)),
}
BASE, DEPTH, CLASSES = 8, 2, 3
# Every so many values of a gradient are stored.
STEP = 17


class Block(nn.Sequential):
    def __init__(self, i, o, norm, act, kernel=3):
        super().__init__(nn.Conv3d(i, o, kernel, padding=kernel // 2, bias=False), norm(o), act())


class DoubleConv3d(nn.Module):
    def __init__(self, i, inner, o, norm, act, residual=False):
        super().__init__()
        self.first = Block(i, inner, norm, act)
        self.second = Block(inner, o, norm, nn.Identity if residual else act)
        self.shortcut = Block(i, o, norm, nn.Identity, 1) if residual and i != o else None
        self.last = act() if residual else None

    def forward(self, x):
        y = self.second(self.first(x))
        if self.last is None:
            return y
        return self.last(y + (x if self.shortcut is None else self.shortcut(x)))


class UNet3d(nn.Module):
    def __init__(self, in_channels, norm, act, widths, residual, deep):
        super().__init__()
        channels = [widths(BASE << level) for level in range(DEPTH + 1)]
        inputs = [in_channels] + [c[1] for c in channels]
        levels = [DoubleConv3d(inputs[k], *channels[k], norm, act, residual) for k in range(DEPTH + 1)]
        self.encoder, self.bottleneck = nn.ModuleList(levels[:-1]), levels[-1]
        self.up, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        below = channels[-1][1]
        for level in reversed(range(DEPTH)):
            skip = channels[level][1]
            enlarged = below if channels[level][0] != skip else skip
            self.up.append(nn.ConvTranspose3d(below, enlarged, 2, 2))
            self.decoder.append(DoubleConv3d(skip + enlarged, skip, skip, norm, act))
            below = skip
            if deep and level > 0:
                self.heads.append(nn.Conv3d(skip, CLASSES, 1))
        self.head = nn.Conv3d(below, CLASSES, 1)

    def forward(self, x):
        skips, logits = [], []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        x = self.bottleneck(x)
        for index, (up, decoder) in enumerate(zip(self.up, self.decoder)):
            x = decoder(torch.cat([skips.pop(), up(x)], 1))
            if index < len(self.heads):
                logits.append(self.heads[index](x))
        return [*logits, self.head(x)]


def volume(name, shape):
    count = int(torch.tensor(shape).prod())
    return torch.from_numpy(noise(name, count)).float().reshape(shape)


def main():
    tensors = {}
    for name, (norm, act, widths, residual, deep, shape) in CASES.items():
        model = UNet3d(shape[1], norm, act, widths, residual, deep)
        model.load_state_dict({key: formula(key, value.shape, name) for key, value in model.state_dict().items()})
        x = volume(f"{name} volume", shape).requires_grad_()
        with torch.no_grad():
            tensors[f"{name}.evaluated"] = model.eval()(x)[-1].flatten()[::STEP].clone()
        heads = model.train()(x)
        loss = sum((logits * volume(f"{name} loss {index}", logits.shape)).mean() for index, logits in enumerate(heads))
        loss.backward()
        tensors[f"{name}.loss"] = loss.detach().reshape(1)
        tensors[f"{name}.trained"] = heads[-1].detach().flatten()[::STEP].clone()
        tensors[f"{name}.volume"] = x.grad.flatten()[::STEP].clone()
        for key, parameter in model.named_parameters():
            tensors[f"{name}.gradient.{key}"] = parameter.grad.flatten()[::STEP].clone()
        for key, value in model.state_dict().items():
            if "running" in key:
                tensors[f"{name}.statistics.{key}"] = value.clone()
    save_file(tensors, os.path.join(OUT, "unet3d.safetensors"))


if __name__ == "__main__":
    main()
