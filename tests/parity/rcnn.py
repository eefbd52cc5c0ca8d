"""Fixtures for the R-CNN networks of crates/segkiln-models: what torchvision's six models give in evaluation.

    $PYTHON tests/parity/rcnn.py [NAME...]            # needs torch, torchvision and safetensors
    $PYTHON tests/parity/rcnn.py --check [NAME...]    # also says how far the results are from flipping

writes crates/segkiln-models/tests/fixtures/NAME.safetensors. No weights are stored: `formula` gives every tensor from its name, and
`image` gives the two images, both with integers, so that another language can make the same 32-bit floats.
"""
import argparse
import os

import numpy as np
import torch
from safetensors.torch import save_file
from torchvision.models import detection

OUT = os.environ.get("OUT", os.path.join(os.path.dirname(__file__), "../../crates/segkiln-models/tests/fixtures"))
SIZES = [(96, 128), (120, 90)]
KEPT = 5  # masks stored per image

# Factors on the weights whose name contains the text; the first that fits. They keep the activations in range and spread the scores.
FACTORS = [
    (".conv3.", 0.4), (".downsample.", 0.7),          # ResNet: the end of a residual branch, its shortcut
    (".block.2.0.", 0.7), (".block.3.0.", 0.7),       # MobileNetV3: the end of a block
    (".fpn.", 0.4), (".cls_logits.", 1.0), ("rpn.head.bbox_pred.", 0.3),
    (".cls_score.", 3.0), ("box_predictor.bbox_pred.", 1.0), (".mask_fcn_logits.", 3.0),
]

SMALL = dict(min_size=128, max_size=192)
FEW = dict(num_classes=5, rpn_pre_nms_top_n_test=30, rpn_post_nms_top_n_test=80, box_detections_per_img=20, **SMALL)
FEWER = dict(FEW, rpn_pre_nms_top_n_test=10, rpn_post_nms_top_n_test=30, box_detections_per_img=10)
# name: (salt of the formula, factors that come first, arguments)
MODELS = {
    "fasterrcnn_resnet50_fpn": ("x", [], FEW),
    "fasterrcnn_resnet50_fpn_v2": ("s", [], FEWER),
    "fasterrcnn_mobilenet_v3_large_fpn": ("s", [(".cls_score.", 6.0)], dict(num_classes=91, rpn_post_nms_top_n_test=100, box_detections_per_img=20, **SMALL)),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("x", [], dict(num_classes=5, rpn_post_nms_top_n_test=50, box_detections_per_img=20, **SMALL)),
    "maskrcnn_resnet50_fpn": ("e", [], FEW),
    "maskrcnn_resnet50_fpn_v2": ("a", [], FEWER),
}


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def noise(text, n):
    """n numbers in [-1, 1), multiples of 2^-23: exact in 32 bits."""
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) + np.uint64(fnv1a64(text)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def formula(name, shape, salt="", factors=()):
    """The tensor `name`: (offset + scale * noise) in 64 bits, rounded once."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) > 1:
        factor = next((f for text, f in [*factors, *FACTORS] if text in name), 1.0)
        offset, scale = 0.0, factor * (6.0 / np.prod(shape[1:])) ** 0.5
    elif name.endswith("running_var"):
        offset, scale = 1.0, 0.2
    elif name.endswith("weight"):
        offset, scale = 1.0, 0.1
    else:
        offset, scale = 0.0, 0.1
    values = offset + scale * noise(salt + name, int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def image(index, height, width):
    """A ramp, stripes and noise, in 256 steps: [3, height, width] in [0, 1]."""
    c, y, x = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    block = (x // 24 + 2 * (y // 20) + c + index) % 3 * 60
    values = (x * 7 + y * 13 + c * 31 + (x * y) % 17 * 5) % 256 // 2 + block
    return torch.from_numpy(values.astype(np.float32) / np.float32(255))


def build(name, salt, factors, arguments):
    model = getattr(detection, name)(weights=None, weights_backbone=None, **arguments)
    model.load_state_dict({k: formula(k, v.shape, salt, factors) for k, v in model.state_dict().items()})
    return model.eval()


@torch.no_grad()
def run(model, images):
    """What the model gives for the images, with what its parts gave on the way."""
    seen = {}
    filtered = model.rpn.filter_proposals

    def proposals(*arguments):
        seen["proposals"], seen["objectness"] = filtered(*arguments)
        return seen["proposals"], seen["objectness"]

    model.rpn.filter_proposals = proposals
    hooks = [
        model.backbone.register_forward_hook(lambda m, i, o: seen.update(features=o)),
        model.rpn.head.register_forward_hook(lambda m, i, o: seen.update(rpn=o)),
        model.roi_heads.box_predictor.register_forward_hook(lambda m, i, o: seen.update(predicted=o)),
        model.roi_heads.register_forward_hook(lambda m, i, o: seen.update(probabilities=[d["masks"].clone() for d in o[0] if "masks" in d])),
    ]
    seen["found"] = model(images)
    for hook in hooks:
        hook.remove()
    model.rpn.filter_proposals = filtered
    return seen


def tensors(seen):
    out = {}
    for key, feature in seen["features"].items():
        step = max(1, feature.shape[2] // 6)
        out[f"features.{key}"] = feature[:, ::64, ::step, ::step]
        out[f"features.{key}.moments"] = torch.stack([feature.mean((1, 2, 3)), feature.std((1, 2, 3), correction=0)], 1)
    for level, (scores, deltas) in enumerate(zip(*seen["rpn"])):
        step = max(1, scores.shape[2] // 6)
        out[f"rpn.{level}.scores"] = scores[:, :3, ::step, ::step]
        out[f"rpn.{level}.deltas"] = deltas[:, :4, ::step, ::step]
    counts = [len(p) for p in seen["proposals"]]
    for i, found in enumerate(seen["found"]):
        out[f"{i}.proposals"] = seen["proposals"][i]
        out[f"{i}.objectness"] = seen["objectness"][i]
        for key, value in zip(["logits", "deltas"], seen["predicted"]):
            out[f"{i}.{key}"] = value.split(counts)[i][:5]
        out[f"{i}.boxes"], out[f"{i}.scores"], out[f"{i}.labels"] = found["boxes"], found["scores"], found["labels"].int()
        if "masks" in found:
            out[f"{i}.probabilities"] = seen["probabilities"][i][:KEPT, 0]
            out[f"{i}.areas"] = (found["masks"] > 0.5).sum((1, 2, 3)).int()
            out[f"{i}.sums"] = found["masks"].sum((1, 2, 3))
    return {key: value.contiguous() for key, value in out.items()}


def check(model, images, expected, trials=8, amount=1e-5):
    """Moves every weight by up to `amount` of itself, and once computes in 64 bits: the largest changes, or what differs."""
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    worst = {}
    generator = torch.Generator().manual_seed(0)
    for trial in range(trials + 1):
        if trial < trials:
            moved = {k: v * (1 + amount * (2 * torch.rand(v.shape, generator=generator) - 1)) if v.is_floating_point() else v for k, v in weights.items()}
            model.load_state_dict(moved)
            got = tensors(run(model, images))
        else:
            model.load_state_dict(weights)
            got = tensors(run(model.double(), [i.double() for i in images]))
            model.float()
        for key, value in expected.items():
            if got[key].shape != value.shape or (value.dtype == torch.int32 and key.endswith("labels") and not torch.equal(got[key], value)):
                return f"{key} differs in trial {trial}: {tuple(value.shape)} {tuple(got[key].shape)}"
            part = ".".join(p for p in key.split(".") if not p.isdigit())
            if value.numel():
                worst[part] = max(worst.get(part, 0.0), (got[key].double() - value.double()).abs().max().item())
    model.load_state_dict(weights)
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("names", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    images = [image(i, *size) for i, size in enumerate(SIZES)]
    for name in arguments.names or MODELS:
        model = build(name, *MODELS[name])
        got = tensors(run(model, images))
        path = os.path.join(OUT, f"{name}.safetensors")
        save_file(got, path, {"salt": MODELS[name][0]})
        print(name, os.path.getsize(path), "bytes;", [len(got[f"{i}.boxes"]) for i in range(2)], "found")
        if arguments.check:
            print("   ", check(model, images, got))


if __name__ == "__main__":
    main()
