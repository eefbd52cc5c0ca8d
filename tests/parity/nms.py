"""Non-maximum suppression by torchvision.

    python tests/parity/nms.py

writes crates/segkiln-ops/tests/fixtures/nms.json. Needs torch and torchvision 0.29.
"""

import json
from pathlib import Path

import torch
from torchvision.ops import batched_nms, nms

FIXTURE = Path(__file__).parents[2] / "crates/segkiln-ops/tests/fixtures/nms.json"
generator = torch.Generator().manual_seed(3)


def rand(*shape):
    return torch.rand(*shape, generator=generator)


cases = []
for count, side, threshold in [(0, 10, 0.5), (1, 10, 0.5), (17, 10, 0.5), (60, 30, 0.3), (150, 60, 0.7), (40, 8, 0.0), (40, 8, 1.0)]:
    # On a grid of quarters, so that overlaps that equal the threshold occur; equal scores too.
    corner = (rand(count, 2) * side * 4).round() / 4
    size = (rand(count, 2) * side * 2).round() / 4 + 0.25
    size[::13] = 0  # boxes without area
    boxes = torch.cat([corner, corner + size], 1)
    scores = (rand(count) * 20).round() / 20
    classes = (rand(count) * 3).long()
    cases.append({
        "boxes": boxes.tolist(),
        "scores": [round(score, 2) for score in scores.tolist()],
        "classes": classes.tolist(),
        "threshold": threshold,
        "kept": nms(boxes, scores, threshold).tolist(),
        "kept_by_class": batched_nms(boxes, scores, classes, threshold).tolist(),
    })
FIXTURE.parent.mkdir(parents=True, exist_ok=True)
FIXTURE.write_text(json.dumps(cases))
