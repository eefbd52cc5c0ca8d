"""Fixtures for the training of R-CNN in crates/segkiln-models: losses and gradients of a small torchvision Mask R-CNN.

    $PYTHON tests/parity/rcnn_train.py            # needs torch, torchvision and safetensors
    $PYTHON tests/parity/rcnn_train.py --check    # also says how far the results are from flipping

writes crates/segkiln-models/tests/fixtures/rcnn_train_CASE.safetensors. Weights and images by the formulas of rcnn.py. The two samplers take
the first indices (`First`) instead of random ones.
"""
import argparse
import os
from unittest import mock

import torch
from safetensors.torch import save_file
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from rcnn import OUT, formula, image

FACTORS = [(".conv2.", 0.4), ("rpn.head.bbox_pred.", 0.1), (".cls_score.", 1.0)]  # before those of rcnn.py; in ResNet-18 conv2 ends the residual branch
SIZES = [(72, 96), (90, 70)]
# Boxes in quarters of a pixel, x1 y1 x2 y2, and their labels; the mask is the ellipse in the box.
OBJECTS = [
    [((58, 110, 328, 267), 2), ((149, 60, 186, 129), 1), ((214, 28, 290, 170), 1)],
    [((9, 7, 269, 346), 2), ((154, 83, 219, 215), 1)],
]
ARGUMENTS = dict(
    num_classes=3, min_size=96, max_size=128, rpn_batch_size_per_image=64, rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=300,
    box_batch_size_per_image=48, rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5))
# name: (salt of the formula, norm, number of objects used of each image)
CASES = {
    "frozen": ("a", FrozenBatchNorm2d, (3, 2)),
    "batch": ("o", torch.nn.BatchNorm2d, (3, 2)),
    "empty": ("a", FrozenBatchNorm2d, (3, 0)),
}
# The stored gradients, and which part of each.
GRADIENTS = {
    "backbone.body.conv1.weight": (slice(None, None, 8),),
    "backbone.body.layer2.0.conv1.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.inner_blocks.1.0.weight": (slice(None, None, 16), slice(None, None, 16)),
    "backbone.fpn.layer_blocks.0.0.weight": (slice(None, None, 32), slice(None, None, 32)),
    "backbone.fpn.layer_blocks.3.0.bias": (),
    "rpn.head.conv.0.0.weight": (slice(None, None, 32), slice(None, None, 32)),
    "rpn.head.cls_logits.weight": (),
    "rpn.head.cls_logits.bias": (),
    "rpn.head.bbox_pred.weight": (slice(None), slice(None, None, 16)),
    "roi_heads.box_head.fc6.weight": (slice(None, None, 64), slice(None, None, 197)),
    "roi_heads.box_head.fc7.bias": (slice(None, None, 8),),
    "roi_heads.box_predictor.cls_score.weight": (slice(None), slice(None, None, 8)),
    "roi_heads.box_predictor.bbox_pred.weight": (slice(None), slice(None, None, 16)),
    "roi_heads.mask_head.0.0.weight": (slice(None, None, 32), slice(None, None, 32)),
    "roi_heads.mask_predictor.conv5_mask.weight": (slice(None, None, 32), slice(None, None, 32)),
    "roi_heads.mask_predictor.mask_fcn_logits.weight": (),
}


class First(BalancedPositiveNegativeSampler):
    """The first positives and the first negatives by index, as many as the random sampler would take."""

    def __call__(self, labels):
        with mock.patch("torch.randperm", lambda n, device=None: torch.arange(n)):
            return super().__call__(labels)


def target(objects, height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    masks = torch.zeros(len(objects), height, width, dtype=torch.uint8)
    for mask, ((x1, y1, x2, y2), _) in zip(masks, objects):
        a, b = (8 * x + 4 - x1 - x2) * (y2 - y1), (8 * y + 4 - y1 - y2) * (x2 - x1)
        mask[a * a + b * b <= ((x2 - x1) * (y2 - y1)) ** 2] = 1
    boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4) / 4
    return {"boxes": boxes, "labels": torch.tensor([label for _, label in objects], dtype=torch.int64), "masks": masks}


def build(salt, norm):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
    model = MaskRCNN(backbone, **ARGUMENTS)
    model.load_state_dict({k: formula(k, v.shape, salt, FACTORS) for k, v in model.state_dict().items()})
    for part in [model.rpn, model.roi_heads]:
        sampler = part.fg_bg_sampler
        part.fg_bg_sampler = First(sampler.batch_size_per_image, sampler.positive_fraction)
    return model.train()


def run(model, counts):
    dtype = next(model.parameters()).dtype
    images = [image(i, *size).to(dtype) for i, size in enumerate(SIZES)]
    targets = [target(objects[:n], *size) for objects, n, size in zip(OBJECTS, counts, SIZES)]
    for t in targets:
        t["boxes"] = t["boxes"].to(dtype)
    out = {}
    assign, select = model.rpn.assign_targets_to_anchors, model.roi_heads.select_training_samples

    def assigned(*arguments):
        labels, boxes = assign(*arguments)
        for i, label in enumerate(labels):
            out[f"{i}.anchors"] = torch.stack([(label == v).sum() for v in (1, 0, -1)]).int()
        return labels, boxes

    def selected(*arguments):
        got = select(*arguments)
        for i, (boxes, _, labels, deltas) in enumerate(zip(*got)):
            out[f"{i}.sampled"], out[f"{i}.labels"], out[f"{i}.targets"] = boxes.detach(), labels.int(), deltas[labels > 0]
        return got

    model.rpn.assign_targets_to_anchors, model.roi_heads.select_training_samples = assigned, selected
    model.zero_grad()
    losses = model(images, targets)
    sum(losses.values()).backward()
    model.rpn.assign_targets_to_anchors, model.roi_heads.select_training_samples = assign, select
    out.update({key: value.detach().reshape(1) for key, value in losses.items()})
    gradients = {name: p.grad for name, p in sorted(model.named_parameters())}
    out["norms"] = torch.stack([gradients[name].double().norm() for name in gradients]).float()
    for name, part in GRADIENTS.items():
        out[f"grad.{name}"] = gradients[name][part]
    if "backbone.body.bn1.weight" in gradients:
        for key in ["bn1", "layer2.0.downsample.1", "layer4.1.bn2"]:
            for kind in ["weight", "bias"]:
                out[f"grad.backbone.body.{key}.{kind}"] = gradients[f"backbone.body.{key}.{kind}"]
            for kind in ["running_mean", "running_var"]:
                out[f"after.backbone.body.{key}.{kind}"] = model.state_dict()[f"backbone.body.{key}.{kind}"].clone()
    return {key: value.contiguous() for key, value in out.items()}


def check(salt, norm, counts, expected, trials=6, amount=1e-5):
    generator = torch.Generator().manual_seed(0)
    worst = [{}, {}]
    for trial in range(trials + 1):
        model = build(salt, norm)
        if trial < trials:
            with torch.no_grad():
                for value in [*model.parameters(), *model.buffers()]:
                    if value.is_floating_point():
                        value *= 1 + amount * (2 * torch.rand(value.shape, generator=generator) - 1)
        else:
            model.double()
        got = run(model, counts)
        for key, value in expected.items():
            if got[key].shape != value.shape or (value.dtype == torch.int32 and not torch.equal(got[key], value)):
                return f"{key} differs in trial {trial}: {value.flatten()[:8]} {got[key].flatten()[:8]}"
            if value.numel():
                scale = 1.0 if "sampled" in key else max(value.abs().max().item(), 1e-12)
                part = "grad" if key.startswith("grad") else key
                w = worst[trial == trials]
                w[part] = max(w.get(part, 0.0), (got[key].double() - value.double()).abs().max().item() / scale)
    return [{k: float(f"{v:.1g}") for k, v in w.items()} for w in worst]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    for case, (salt, norm, counts) in CASES.items():
        got = run(build(salt, norm), counts)
        if case == "empty":
            got = {key: value for key, value in got.items() if not key.startswith("grad.")}
        path = os.path.join(OUT, f"rcnn_train_{case}.safetensors")
        save_file(got, path, {"salt": salt})
        print(case, os.path.getsize(path), "bytes", {k: round(v.item(), 5) for k, v in got.items() if k.startswith("loss")})
        print("   ", {k: v.tolist() for k, v in got.items() if k.endswith(("anchors", "labels"))})
        if arguments.check:
            print("   ", check(salt, norm, counts, got))


if __name__ == "__main__":
    main()
