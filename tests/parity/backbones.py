"""Fixture for the backbones of crates/segkiln-models: the stages' maps of torchvision's classifiers, and of timm's where it has none.

    $PYTHON tests/parity/backbones.py            # needs torch, torchvision, timm, segmentation_models_pytorch and safetensors

writes crates/segkiln-models/tests/fixtures/backbones.safetensors. Weights and image by the formulas of rcnn.py, of timm's networks by
torchvision's names. `NAME.STAGE` is every so many values of a map, at most 4 channels and 3 rows and columns; `NAME.HEIGHTxWIDTH.STAGE` of
another image. Also writes names.txt: what timm and segmentation_models_pytorch call the tensors of a network, in torchvision's order.
"""
import os
import re

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from rcnn import OUT, formula, image

SIZE = (48, 64)
EFFICIENTNET = ["bn1", *(f"blocks.{i}" for i in range(7)), "bn2"]  # timm's
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
    "convnext_tiny": [f"features.{i}" for i in range(8)],
    "efficientnet_lite0": EFFICIENTNET,
    "tf_efficientnet_b0": EFFICIENTNET,
    "mobilenetv3_large_100": ["bn1", *(f"blocks.{i}.{j}" for i, count in enumerate([1, 2, 3, 4, 2, 3, 1]) for j in range(count))],
    "tf_mobilenetv3_small_100": ["bn1", *(f"blocks.{i}.{j}" for i, count in enumerate([1, 2, 3, 2, 3, 1]) for j in range(count))],
}
# name: other sizes of the image
SIZES = {"convnext_tiny": [(65, 49)], "efficientnet_lite0": [(65, 49), (1, 1)], "tf_efficientnet_b0": [(65, 49), (1, 1)]}
SIZES["tf_mobilenetv3_small_100"] = [(65, 49), (1, 1)]
# Whole classifiers, of which every STEP-th logit is stored.
CLASSIFIERS = ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_b3"]
CLASSIFIERS += ["convnext_tiny", "efficientnet_lite0", "tf_efficientnet_b0", "mobilenetv3_large_100", "tf_mobilenetv3_small_100"]
STEP = 61


def tensors(model):
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def translated(name, state):
    """The names in `state`, and what torchvision calls them or would, in the same order."""
    base = re.sub("tf_|lite", lambda found: "b" if found[0] == "lite" else "", name)
    base = re.sub("mobilenetv3_(.*)_100", r"mobilenet_v3_\1", base)
    theirs = tensors(getattr(models, base)(weights=None))
    if "lite" in name:  # without squeeze and excitation, the third layer of a block with an expansion and the second of the others
        theirs = {re.sub(r"(block\.)([23])\.", lambda m: f"{m[1]}{int(m[2]) - 1}.", k): v for k, v in theirs.items() if ".fc" not in k}
    found = dict(zip(state, theirs))
    assert all(state[k].numel() == theirs[v].numel() for k, v in found.items()), name
    return found


def fill(model, names, *arguments):
    """Gives the tensors of the model the formula's values, by the names that `names` has for them."""
    def value(name, shape):
        # timm has a layer scale without the axes of one.
        return formula(name, (*shape, 1, 1) if name.endswith("layer_scale") else shape, *arguments).reshape(shape)

    model.load_state_dict({k: value(names.get(k, k), v.shape) for k, v in model.state_dict().items()})
    return model


def create(name):
    """The network with the formula's weights."""
    if hasattr(models, name):
        model = getattr(models, name)(weights=None)
        names = {}
    else:
        model = timm.create_model(name)
        names = translated(name, tensors(model))
    return fill(model, names).eval()


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    out = {}
    for name, stages in MODELS.items():
        model = create(name)
        seen = {}
        for stage, module in enumerate(stages):
            # The stem's ReLU is used again in no other place of a ResNet; its first output is kept.
            model.get_submodule(module).register_forward_hook(lambda m, i, o, stage=stage: seen.setdefault(stage, o.clone()))
        for size in [SIZE, *SIZES.get(name, [])]:
            seen.clear()
            model(image(0, *size)[None])
            for stage, value in seen.items():
                channels, rows, columns = [max(1, size // parts) for size, parts in zip(value.shape[1:], (4, 3, 3))]
                key = f"{name}.{stage}" if size == SIZE else f"{name}.{size[0]}x{size[1]}.{stage}"
                out[key] = value[:, ::channels, ::rows, ::columns].contiguous()
    for name in CLASSIFIERS:
        out[f"{name}.logits"] = create(name)(image(0, *SIZE)[None])[0, ::STEP].contiguous()
    path = os.path.join(OUT, "backbones.safetensors")
    save_file(out, path)
    print(os.path.getsize(path), "bytes")
    names = {f"timm {name}": list(translated(name, tensors(timm.create_model(name)))) for name in ["efficientnet_b0", "convnext_tiny", "mobilenetv3_large_100", "mobilenetv3_small_100"]}
    encoder = tensors(smp.encoders.get_encoder("efficientnet-b0"))
    names["smp efficientnet_b0"] = list(translated("efficientnet_b0", encoder))
    path = os.path.join(OUT, "names.txt")
    with open(path, "w") as file:
        for library, found in names.items():
            print(f"[{library}]", *found, sep="\n", file=file)
    print(os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
