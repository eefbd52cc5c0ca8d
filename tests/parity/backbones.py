"""Fixture for the backbones of crates/segkiln-models: the stages' maps of torchvision's classifiers.

    $PYTHON tests/parity/backbones.py            # needs torch, torchvision and safetensors

writes crates/segkiln-models/tests/fixtures/backbones.safetensors. Weights and image by the formulas of rcnn.py. `NAME.STAGE` is every so
many values of a map, at most 4 channels and 3 rows and columns.
"""
import os

import torch
from safetensors.torch import save_file
from torchvision import models

from rcnn import OUT, formula, image

SIZE = (48, 64)
RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]
# name: the modules whose outputs are the stages' maps
MODELS = {
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnext50_32x4d": RESNET,
    "mobilenet_v2": [f"features.{i}" for i in range(19)],
    "mobilenet_v3_large": [f"features.{i}" for i in range(17)],
    "mobilenet_v3_small": [f"features.{i}" for i in range(13)],
    "efficientnet_b0": [f"features.{i}" for i in range(9)],
    "vgg11_bn": [f"features.{i}" for i in (2, 6, 13, 20, 27, 28)],
    "vgg16_bn": [f"features.{i}" for i in (5, 12, 22, 32, 42, 43)],
}
# Whole classifiers, of which every STEP-th logit is stored.
CLASSIFIERS = ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_b3"]
STEP = 61


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    out = {}
    for name, stages in MODELS.items():
        model = getattr(models, name)(weights=None).eval()
        model.load_state_dict({k: formula(k, v.shape) for k, v in model.state_dict().items()})
        seen = {}
        for stage, module in enumerate(stages):
            # The stem's ReLU is used again in no other place of a ResNet; its first output is kept.
            model.get_submodule(module).register_forward_hook(lambda m, i, o, stage=stage: seen.setdefault(stage, o.clone()))
        model(image(0, *SIZE)[None])
        for stage, value in seen.items():
            channels, rows, columns = [max(1, size // parts) for size, parts in zip(value.shape[1:], (4, 3, 3))]
            out[f"{name}.{stage}"] = value[:, ::channels, ::rows, ::columns].contiguous()
    for name in CLASSIFIERS:
        model = getattr(models, name)(weights=None).eval()
        model.load_state_dict({k: formula(k, v.shape) for k, v in model.state_dict().items()})
        out[f"{name}.logits"] = model(image(0, *SIZE)[None])[0, ::STEP].contiguous()
    path = os.path.join(OUT, "backbones.safetensors")
    save_file(out, path)
    print(os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
