"""Fixtures for RetinaNet and FCOS in crates/segkiln-models: torchvision's detections, and losses and gradients of a training step.

    $PYTHON tests/parity/dense.py [CASE...]            # needs torch, torchvision and safetensors
    $PYTHON tests/parity/dense.py --check [CASE...]    # also says how far the results are from flipping

writes crates/segkiln-models/tests/fixtures/CASE.safetensors. Weights and images by the formulas of rcnn.py, objects of rcnn_train.py (without masks).
Detections of class 0, the background, are left out, as segkiln leaves them out.
"""
import argparse
import os
from functools import partial

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection, resnet18
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from rcnn import OUT, SIZES, formula, image
from rcnn_train import OBJECTS
from rcnn_train import SIZES as TRAIN_SIZES
from rcnn_train import target

# Before those of rcnn.py: logits that spread, boxes that move, P6 and P7 as large as the other levels.
FACTORS = [(".extra_blocks.", 0.7), (".cls_logits.", 0.6), (".bbox_reg.", 0.3), (".bbox_ctrness.", 1.0)]
FEW = dict(num_classes=5, min_size=128, max_size=192, topk_candidates=40, detections_per_img=30)
# Detections of the whole networks: salt of the formula, arguments.
DETECT = {
    "retinanet_resnet50_fpn": ("e", FEW),
    "retinanet_resnet50_fpn_v2": ("c", FEW),
    "fcos_resnet50_fpn": ("c", FEW),
}
# A training step on a ResNet-18 with 64 channels: salt, norm of the backbone, number of objects used of each image.
TRAIN = {
    "retinanet_train_frozen": ("a", FrozenBatchNorm2d, (3, 2)),
    "retinanet_train_giou": ("a", nn.BatchNorm2d, (3, 2)),
    "retinanet_train_empty": ("a", FrozenBatchNorm2d, (3, 0)),
    "fcos_train_frozen": ("a", FrozenBatchNorm2d, (3, 2)),
    "fcos_train_batch": ("a", nn.BatchNorm2d, (3, 2)),
    "fcos_train_empty": ("a", FrozenBatchNorm2d, (0, 0)),
}
TRAIN_FACTORS = [(".conv2.", 0.4), *FACTORS]
# The stored gradients, and which part of each; those that a network does not have are skipped.
GRADIENTS = {
    "backbone.body.conv1.weight": (slice(None, None, 8),),
    "backbone.body.layer2.0.conv1.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.inner_blocks.1.0.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.layer_blocks.0.0.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.extra_blocks.p6.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.extra_blocks.p7.bias": (),
    "head.classification_head.conv.0.0.weight": (slice(None, None, 16), slice(None, None, 16)),
    "head.classification_head.conv.3.1.weight": (),
    "head.classification_head.conv.9.weight": (slice(None, None, 16), slice(None, None, 16)),
    "head.classification_head.conv.10.bias": (),
    "head.classification_head.cls_logits.weight": (slice(None), slice(None, None, 16)),
    "head.classification_head.cls_logits.bias": (),
    "head.regression_head.conv.3.0.weight": (slice(None, None, 16), slice(None, None, 16)),
    "head.regression_head.conv.9.bias": (),
    "head.regression_head.bbox_reg.weight": (slice(None), slice(None, None, 16)),
    "head.regression_head.bbox_ctrness.weight": (slice(None), slice(None, None, 16)),
}


def build(case):
    if case in DETECT:
        salt, arguments = DETECT[case]
        model = getattr(detection, case)(weights=None, weights_backbone=None, **arguments)
        model.load_state_dict({k: formula(k, v.shape, salt, FACTORS) for k, v in model.state_dict().items()})
        return model.eval()
    salt, norm, _ = TRAIN[case]
    giou = case.endswith("giou")
    last = LastLevelP6P7(512 if giou else 64, 64)
    body = resnet18(weights=None, norm_layer=norm)
    import torchvision.models.detection.backbone_utils as utils

    class Narrow(utils.BackboneWithFPN):
        """The pyramid with 64 channels in place of 256."""

        def __init__(self, backbone, layers, in_channels, out_channels, extra_blocks=None, norm_layer=None):
            super().__init__(backbone, layers, in_channels, 64, extra_blocks, norm_layer)

    original, utils.BackboneWithFPN = utils.BackboneWithFPN, Narrow
    backbone = _resnet_fpn_extractor(body, 5, returned_layers=[2, 3, 4], extra_blocks=last)
    utils.BackboneWithFPN = original
    common = dict(num_classes=3, min_size=96, max_size=128)
    if case.startswith("retinanet"):
        sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in [8, 16, 32, 64, 128])
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
        head = RetinaNetHead(64, 9, 3, norm_layer=partial(nn.GroupNorm, 32) if giou else None)
        if giou:
            head.regression_head._loss_type = "giou"
        model = RetinaNet(backbone, anchor_generator=anchors, head=head, **common)
    else:
        model = FCOS(backbone, head=FCOSHead(64, 1, 3), **common)
    model.load_state_dict({k: formula(k, v.shape, salt, TRAIN_FACTORS) for k, v in model.state_dict().items()})
    return model.train()


@torch.no_grad()
def detect(model):
    dtype = next(model.parameters()).dtype
    images = [image(i, *size).to(dtype) for i, size in enumerate(SIZES)]
    seen = {}
    hook = model.head.register_forward_hook(lambda m, i, o: seen.update(o))
    found = model(images)
    hook.remove()
    out = {}
    for key, value in seen.items():
        out[f"{key}.moments"] = torch.stack([value.mean((1, 2)), value.std((1, 2), correction=0)], 1)
    for i, f in enumerate(found):
        kept = (f["labels"] > 0) & ((f["boxes"][:, 2:] > f["boxes"][:, :2]).all(1))
        out[f"{i}.boxes"], out[f"{i}.scores"], out[f"{i}.labels"] = f["boxes"][kept], f["scores"][kept], f["labels"][kept].int()
    return out


def train(model, counts):
    dtype = next(model.parameters()).dtype
    images = [image(i, *size).to(dtype) for i, size in enumerate(TRAIN_SIZES)]
    targets = [target(objects[:n], *size) for objects, n, size in zip(OBJECTS, counts, TRAIN_SIZES)]
    for t in targets:
        del t["masks"]
        t["boxes"] = t["boxes"].to(dtype)
    out, compute = {}, model.head.compute_loss

    def counted(targets, outputs, anchors, matched):
        out["matched"] = torch.stack([torch.stack([(m >= 0).sum(), (m == -1).sum(), (m == -2).sum()]) for m in matched]).int()
        return compute(targets, outputs, anchors, matched)

    model.head.compute_loss = counted
    model.zero_grad()
    losses = model(images, targets)
    sum(losses.values()).backward()
    model.head.compute_loss = compute
    out.update({key: value.detach().reshape(1) for key, value in losses.items()})
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in sorted(model.named_parameters())}
    out["norms"] = torch.stack([g.double().norm() for g in gradients.values()]).float()
    for name, part in GRADIENTS.items():
        if name in gradients:
            out[f"grad.{name}"] = gradients[name][part]
    return out


def run(case, model):
    got = detect(model) if case in DETECT else train(model, TRAIN[case][2])
    return {key: value.contiguous() for key, value in got.items()}


def check(case, model, expected, trials=6, amount=1e-5):
    """Moves every weight by up to `amount` of itself, and once computes in 64 bits: the largest changes, or what differs."""
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    worst, generator = {}, torch.Generator().manual_seed(0)
    # In 64 bits FCOS assigns objects of almost equal areas otherwise: torchvision rounds areas to multiples of 8 in 32 bits.
    for trial in range(trials + (not case.startswith("fcos_train"))):
        if trial < trials:
            model.load_state_dict({k: v * (1 + amount * (2 * torch.rand(v.shape, generator=generator) - 1)) if v.is_floating_point() else v for k, v in weights.items()})
            got = run(case, model)
        else:
            model.load_state_dict(weights)
            got = run(case, model.double())
            model.float()
        for key, value in expected.items():
            exact = key == "matched" or key.endswith("labels")
            if got[key].shape != value.shape or (exact and not torch.equal(got[key], value)):
                return f"{key} differs in trial {trial}: {tuple(value.shape)} {tuple(got[key].shape)}"
            part = "grad" if key.startswith("grad") else ".".join(p for p in key.split(".") if not p.isdigit())
            if value.numel():
                difference = (got[key].double() - value.double()).abs()
                relative = difference / value.double().abs().clamp(min=1e-12) if part == "norms" else difference / (value.abs().max() if part == "grad" else 1)
                worst[part] = max(worst.get(part, 0.0), relative.max().item())
    model.load_state_dict(weights)
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--salt", help="instead of the case's")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    for case in arguments.cases or [*DETECT, *TRAIN]:
        if arguments.salt:
            table = DETECT if case in DETECT else TRAIN
            table[case] = (arguments.salt, *table[case][1:])
        model = build(case)
        got = run(case, model)
        path = os.path.join(OUT, f"{case}.safetensors")
        save_file(got, path, {"salt": (DETECT.get(case) or TRAIN[case])[0]})
        shown = [len(got[f"{i}.boxes"]) for i in range(2)] if case in DETECT else got["matched"].tolist()
        print(case, os.path.getsize(path), "bytes;", shown, {k: round(v.item(), 4) for k, v in got.items() if v.numel() == 1 and v.is_floating_point()}, flush=True)
        if case in DETECT:
            for i in range(2):
                print("   scores", got[f"{i}.scores"][[0, -1]].tolist() if len(got[f"{i}.scores"]) else [], "labels", got[f"{i}.labels"].bincount().tolist())
        if arguments.check:
            print("   ", check(case, model, got), flush=True)


if __name__ == "__main__":
    main()
