"""Runs `detect` and torchvision on the same photographs with the same random weights, and compares what they find.

    cargo build --release --example detect
    $PYTHON tests/parity/detect.py --detect target/release/examples/detect [--size MIN MAX] [--jpeg] [--only TEXT] [--keep DIR]

needs torch, torchvision, safetensors and scikit-image (for the photographs). Prints one line per model and photograph, and ends with status 1
where one fails. --floor compares torchvision in 64 bits instead of `detect`: the difference that rounding alone makes.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict

import numpy as np
import skimage
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, box_iou

PHOTOS = ["chelsea.png", "coffee.png", "motorcycle_left.png"]  # the last one is turned upright
# Largest differences of a pair: pixels, probability, IoU of the masks; and the share of the detections that must have such a partner. Not all can: an
# overlap may lie at the threshold of the suppression, and a box at the pixel edge where the pasting of a mask rounds it down.
BOX, SCORE, MASK, SHARE = 0.05, 3e-4, 0.99, 0.96

# Architecture, classes, photographs, and how the file is written: `frozen` norms (eps 0 in the ResNets, as in torchvision's COCO files), `old` names of
# older torchvision, `legacy` pickle of before PyTorch 1.6, `safetensors`.
CASES = [
    ("fasterrcnn_resnet50_fpn", 91, PHOTOS[:2], "frozen old legacy"),
    ("fasterrcnn_resnet50_fpn", 4, PHOTOS[:1], ""),
    ("fasterrcnn_resnet50_fpn_v2", 7, PHOTOS[:1], ""),
    ("fasterrcnn_mobilenet_v3_large_fpn", 91, PHOTOS[:2], "frozen old"),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", 91, PHOTOS[:2], "safetensors"),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", 21, PHOTOS, "legacy"),
    ("maskrcnn_resnet50_fpn", 91, PHOTOS[:2], "frozen old"),
    ("maskrcnn_resnet50_fpn", 2, PHOTOS[:1], "safetensors"),
    ("maskrcnn_resnet50_fpn_v2", 91, PHOTOS[:1], "safetensors"),
    ("retinanet_resnet50_fpn", 91, PHOTOS[:2], "frozen old"),
    ("retinanet_resnet50_fpn", 3, PHOTOS[1:], "safetensors"),
    ("retinanet_resnet50_fpn_v2", 91, PHOTOS[:2], ""),
    ("fcos_resnet50_fpn", 91, PHOTOS[:2], "frozen old"),
    ("fcos_resnet50_fpn", 3, PHOTOS[1:], "safetensors"),
]


def fit(module, spread, background=0.0, mean=0.0):
    """At the first use of `module`, rescales it: outputs with this mean and standard deviation `spread` over all but the channels."""

    def hook(module, inputs, output):
        handle.remove()
        axes = [d for d in range(output.dim()) if d != 1]
        scale = spread / output.std(axes).clamp(min=1e-6)
        module.weight.mul_(scale.reshape(-1, *[1] * (module.weight.dim() - 1)))
        module.bias.copy_((module.bias - output.mean(axes)) * scale)
        module.bias += mean
        module.bias[0] += background
        return module(inputs[0])

    handle = module.register_forward_hook(hook)


def freeze(module, eps):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze(child, eps)


@torch.no_grad()
def build(name, classes, kind, seed, images, size):
    """A model with random weights and norms that fit the images, whose detections are many, of many classes, with all kinds of scores."""
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes, **size).eval()
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if path.endswith((".bn3", ".block.2.1", ".block.3.1")):
                module.weight *= 0.2  # the end of a residual branch: without this, rounding errors grow from block to block
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = None  # the average over the one batch below
            module.train()
        elif isinstance(module, nn.Conv2d) and module.weight.shape[0] > 8:
            module.weight[torch.rand(len(module.weight)) < 0.1] *= 0.01  # small variances, where eps counts
    if hasattr(model, "head"):
        fit(model.head.classification_head.cls_logits, 1.5, mean=-5.0)
        if "fcos" in name:
            fit(model.head.regression_head.bbox_reg, 2.0, mean=3.0)
            fit(model.head.regression_head.bbox_ctrness, 1.0, mean=1.0)
        else:
            fit(model.head.regression_head.bbox_reg, 0.3)
        model.score_thresh = 0.05
    else:
        fit(model.rpn.head.cls_logits, 2.0)
        fit(model.rpn.head.bbox_pred, 0.3)
        fit(model.roi_heads.box_predictor.cls_score, 1.5 if classes > 21 else 1.0, background=1.0)
        fit(model.roi_heads.box_predictor.bbox_pred, 0.5)
        if model.roi_heads.has_mask():
            fit(model.roi_heads.mask_predictor.mask_fcn_logits, 2.0)
    model(images)
    model.eval()
    if "frozen" in kind:
        freeze(model, 0.0 if "rcnn_resnet" in name or "retinanet" in name else 1e-5)
    return model


def old_names(state):
    """The names of the files that older torchvision wrote, which today's still reads."""
    renamed = OrderedDict()
    for key, value in state.items():
        parts = key.split(".")
        if key.startswith(("backbone.fpn.inner", "backbone.fpn.layer")):
            key = ".".join([*parts[:4], parts[5]])
        elif key.startswith("rpn.head.conv."):
            key = "rpn.head.conv." + parts[-1]
        elif key.startswith("roi_heads.mask_head."):
            key = f"roi_heads.mask_head.mask_fcn{int(parts[2]) + 1}.{parts[-1]}"
        elif key.startswith("head.") and parts[2] == "conv" and len(parts) == 6:
            key = ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
        renamed[key] = value
    return renamed


def write(model, kind, folder):
    state = model.state_dict()
    if "old" in kind:
        state = old_names(state)
    if "safetensors" in kind:
        path = os.path.join(folder, "weights.safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        path = os.path.join(folder, "weights.pth")
        torch.save(state, path, _use_new_zipfile_serialization="legacy" not in kind)
    return path


def decode(segmentation):
    """A mask from COCO's compressed run lengths."""
    height, width = segmentation["size"]
    counts, text, i = [], segmentation["counts"].encode(), 0
    while i < len(text):
        value, shift, more = 0, 0, True
        while more:
            c = text[i] - 48
            value |= (c & 31) << shift
            more, shift, i = c & 32, shift + 5, i + 1
        if c & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


@torch.no_grad()
def expected(model, image):
    found = model([image])[0]
    # RetinaNet and FCOS also find the background, class 0, and boxes without area, which segkiln leaves out.
    kept = (found["labels"] > 0) & (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
    found = {key: value[kept] for key, value in found.items()}
    masks = (found["masks"][:, 0] > 0.5).numpy() if "masks" in found else None
    return found["boxes"].float(), found["scores"].float(), found["labels"], masks


def detected(command, masked):
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"status {run.returncode}: {run.stderr.strip()[-300:]}")
    json.loads(run.stdout.strip().splitlines()[-1])  # the promise of the contract
    with open(command[command.index("--output") + 1]) as file:
        results = json.load(file)
    scores = [r["score"] for r in results]
    assert scores == sorted(scores, reverse=True), "not best score first"
    boxes = torch.tensor([r["bbox"] for r in results]).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    masks = np.stack([decode(r["segmentation"]) for r in results]) if masked and results else None
    return boxes, torch.tensor(scores), torch.tensor([r["category_id"] for r in results]), masks


def compare(want, got):
    """Greedy: every expected detection, best first, takes the free one of its class that overlaps it most."""
    overlap = box_iou(want[0], got[0]) * (want[2][:, None] == got[2][None])
    free = torch.ones(len(got[0]), dtype=torch.bool)
    box, score, masks, pairs = 0.0, 0.0, [], 0
    for i, row in enumerate(overlap):
        row = (row - (got[1] - want[1][i]).abs() / 1000).masked_fill(~free, 0)
        j = row.argmax() if len(row) else 0
        if not len(row) or row[j] < 0.9:
            continue
        free[j], pairs = False, pairs + 1
        box = max(box, (want[0][i] - got[0][j]).abs().max().item())
        score = max(score, abs(want[1][i] - got[1][j]).item())
        if want[3] is not None:
            union = (want[3][i] | got[3][j]).sum()
            masks.append((want[3][i] & got[3][j]).sum() / union if union else 1.0)
    return pairs, box, score, masks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--detect", help="the program")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, metavar=("MIN", "MAX"), help="instead of the sizes of the architectures")
    parser.add_argument("--jpeg", action="store_true", help="photographs as JPEG: decoders differ, so the limits are 20 times as wide")
    parser.add_argument("--only", default="", help="the cases whose line contains this")
    parser.add_argument("--keep", help="folder for the files (a temporary one otherwise)")
    parser.add_argument("--device", help="for the program")
    arguments = parser.parse_args()
    if not arguments.detect and not arguments.floor:
        parser.error("--detect PATH or --floor is needed")
    torch.set_num_threads(1)
    size = dict(min_size=arguments.size[0], max_size=arguments.size[1]) if arguments.size else {}
    flags = [f for name, value in size.items() for f in ("--" + name.replace("_", "-"), str(value))]
    flags += ["--device", arguments.device] if arguments.device else []
    wide = 20 if arguments.jpeg else 1
    folder = arguments.keep or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    photos = {}
    for name in PHOTOS:
        path = os.path.join(folder, os.path.splitext(name)[0] + (".jpg" if arguments.jpeg else ".png"))
        photo = Image.open(os.path.join(skimage.data_dir, name)).convert("RGB")
        photo = photo.transpose(Image.Transpose.ROTATE_90) if name == PHOTOS[-1] else photo
        photo.save(path, **({"quality": 95, "subsampling": 0} if arguments.jpeg else {}))
        pixels = np.array(Image.open(path).convert("RGB"))
        photos[name] = path, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    print(f"{'model':38}{'classes':>8} {'file':18}{'photograph':16}{'found':>6}{'got':>5}{'pairs':>6}{'px':>9}{'score':>9}{'mask':>7}{'poor':>5}{'s':>6}")
    failed = 0
    for seed, (name, classes, used, kind) in enumerate(CASES):
        if arguments.only not in f"{name} {classes} {kind}":
            continue
        model = build(name, classes, kind, seed + 100, [photos[photo][1] for photo in used], size)
        weights = write(model, kind, folder)
        for photo in used:
            path, image = photos[photo]
            want = expected(model, image)
            start, error, numbers = time.time(), "", ""
            try:
                if arguments.floor:
                    hook = model.transform.register_forward_hook(lambda m, i, o: (ImageList(o[0].tensors.double(), o[0].image_sizes), o[1]))
                    got = expected(model.double(), image)  # resized in 32 bits: its rounding is part of the definition
                    model.float()
                    hook.remove()
                else:
                    got = detected([
                        arguments.detect, "--arch", name, "--weights", weights, "--num-classes", str(classes), "--image", path,
                        "--score-threshold", "0.05", "--output", os.path.join(folder, "found.json"), *flags], want[3] is not None)
                pairs, box, score, masks = compare(want, got)
                poor = sum(mask < 1 - (1 - MASK) * wide for mask in masks)
                numbers = f"{len(got[0]):5}{pairs:6}{box:9.2g}{score:9.1g}{min(masks, default=1):7.3f}{poor:5}"
                good = min(pairs, pairs - poor) >= SHARE * max(len(want[0]), len(got[0])) and box <= BOX * wide and score <= SCORE * wide
                error = "" if good else "  FAILED"
            except Exception as problem:
                error = f"  FAILED {problem}"
            failed += bool(error)
            print(f"{name:38}{classes:8} {kind or 'pth':18}{photo.split('.')[0]:16}{len(want[0]):6}{numbers}{time.time() - start:6.1f}{error}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
