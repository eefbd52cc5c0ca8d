"""RoIAlign by torchvision.

    python tests/parity/roi_align.py

writes crates/segkiln-ops/tests/fixtures/roi_align.json. Needs torch and torchvision 0.29.
"""

import json
from pathlib import Path

import torch
from torchvision.ops import roi_align

FIXTURE = Path(__file__).parents[2] / "crates/segkiln-ops/tests/fixtures/roi_align.json"

# Of an image of 80x112; no point of theirs lies on the border at which it counts for nothing, but for rounding.
BOXES = [
    [0, 8.3, 5.1, 60.7, 44.9],
    [1, 0, 0, 112, 80],  # the whole image
    [1, 50.2, 33.3, 51.1, 70.4],  # narrow
    [0, 70.6, 60.2, 70.6, 60.2],  # a point
    [1, 40.3, 30.1, 20.9, 10.7],  # the wrong way round
    [0, -35.7, -21.3, 14.2, 19.8],  # partly outside
    [1, 95.3, 66.6, 180.1, 131.7],
    [0, -90.1, 10.2, -60.3, 30.3],  # outside
    [0, 130.3, 100.7, 190.9, 150.1],
    [1, -310.3, -190.7, 420.9, 270.1],  # much larger than the image
    [0, -20000.3, 20.2, 30000.7, 40.9],
]


def wave(*shape):
    """The test makes the same values by the same formula."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7).mul(3).reshape(shape).float()


def rounded(values):
    return [float(f"{value:.6f}") for value in values.flatten().tolist()]


cases = []
for shape, scale, size, sampling_ratio in [
    ((2, 2, 10, 14), 0.125, (7, 7), 2),
    ((2, 1, 20, 28), 0.25, (3, 5), None),
    ((2, 1, 10, 14), 0.125, (2, 2), 1),
    ((2, 17, 5, 7), 0.0625, (1, 1), 3),
    ((2, 1, 20, 14), 0.2, (4, 2), None),
    ((2, 1, 1, 40), 0.4, (2, 3), None),
]:
    for aligned in [False, True]:
        x = wave(*shape).requires_grad_()
        y = roi_align(x, torch.tensor(BOXES), size, scale, sampling_ratio or -1, aligned)
        y.backward(wave(*y.shape))
        cases.append({
            "shape": shape,
            "size": size,
            "scale": scale,
            "sampling_ratio": sampling_ratio,
            "aligned": aligned,
            "output": rounded(y.detach()),
            "gradient": rounded(x.grad),
        })
FIXTURE.write_text(json.dumps({"boxes": BOXES, "cases": cases}, separators=(",", ":")))
