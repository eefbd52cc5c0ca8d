"""Run-length masks, polygons and overlaps by pycocotools, overlaps of boxes by torchvision.

    python tests/parity/masks.py

writes crates/segkiln-core/tests/fixtures/masks.json. Needs numpy, pycocotools 2.0.11, torch and torchvision 0.29.
Run it on x86-64: elsewhere a compiler may fuse products with sums, which moves pixels of the polygons called "rounding".
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torchvision.ops as ops
from pycocotools import mask as coco

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-core/tests/fixtures"
rng = np.random.default_rng(13)


def encode(mask):
    return coco.encode(np.asfortranarray(mask, np.uint8))


def rle(string, height, width):
    return {"size": [height, width], "counts": string.encode()}


def string(encoded):
    return encoded["counts"].decode("ascii")


def noise(height, width, density=0.5):
    return rng.random((height, width)) < density


def blobs(height, width, size=6, density=0.5):
    coarse = rng.random((height // size + 1, width // size + 1)) < density
    return np.kron(coarse, np.ones((size, size), bool))[:height, :width] ^ noise(height, width, 0.01)


def ellipse(height, width, x, y, rx, ry):
    rows, columns = np.ogrid[:height, :width]
    return ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1


def pixel(height, width, *at):
    mask = np.zeros((height, width), bool)
    for row, column in at:
        mask[row, column] = True
    return mask


# ---- run lengths


def run_lengths(mask):
    """Of a mask read column by column; the first run is of zeros, and may be empty."""
    flat = np.concatenate([[False], np.ravel(mask, "F")])
    return np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]])).tolist()


def from_counts(height, width, counts):
    """Followed by as many pixels of the other kind as fit."""
    counts = [*counts, height * width - sum(counts)]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")


def rle_case(mask):
    height, width = mask.shape
    counts, encoded = run_lengths(mask), encode(mask)
    assert coco.frPyObjects({"size": [height, width], "counts": counts}, height, width) == encoded
    assert np.array_equal(coco.decode(encoded), mask) and np.array_equal(from_counts(height, width, counts), mask)
    return {"height": height, "width": width, "counts": counts, "string": string(encoded),
            "area": int(coco.area(encoded)), "bbox": coco.toBbox(encoded).astype(int).tolist()}


# Around the limits of one to six characters, up and down.
STEPS = [15, 16, 17, 31, 32, 16, 33, 1, 511, 512, 1023, 1, 512, 513, 1, 1,
         16383, 16384, 1, 16400, 32767, 1, 1, 32768, 65536]
masks = [
    pixel(1, 1), pixel(1, 1, (0, 0)),
    noise(1, 7), noise(1, 40, 0.3), noise(9, 1), noise(50, 1, 0.8), pixel(1, 12, (0, 11)), pixel(12, 1, (11, 0)),
    np.zeros((13, 17), bool), np.ones((13, 17), bool), np.zeros((1, 5), bool), np.ones((5, 1), bool),
    pixel(6, 8, (0, 0)), pixel(6, 8, (5, 7)), pixel(6, 8, (0, 7)), pixel(6, 8, (5, 0)), pixel(6, 8, (0, 0), (5, 7)),
    pixel(4, 6, (3, 2), (0, 3)),  # one run through two columns
    ~pixel(6, 8, (0, 0)), ~pixel(6, 8, (5, 7)), ~pixel(6, 8, (2, 3)),
    np.indices((7, 9)).sum(0) % 2 == 0, np.indices((7, 9)).sum(0) % 2 == 1,
    np.indices((6, 9))[0] % 2 == 1, np.indices((6, 9))[1] % 2 == 0,
    noise(2, 2), noise(3, 5), noise(16, 16), noise(40, 50, 0.03), noise(31, 23, 0.9), noise(25, 18, 0.5),
    blobs(40, 50), blobs(24, 33, 4), blobs(37, 29, 9, 0.3),
    ellipse(40, 50, 24.5, 19.5, 20, 12), ellipse(45, 30, 3, 40, 9, 14),
    np.zeros((300, 400), bool), np.ones((300, 400), bool), pixel(300, 400, (0, 0), (150, 200), (299, 399)),
    from_counts(300, 400, [5, 40000, 7, 3, 35000, 33000, 1, 9]),
    from_counts(300, 1000, STEPS), from_counts(300, 1000, [0, *STEPS]),
    from_counts(1000, 1200, [3, 4, 600000, 2, 1, 590000]), from_counts(4000, 4200, [0, 1, 16777216, 5, 7]),
]
rles = [rle_case(mask) for mask in masks]

# ---- unions and intersections


def merge_case(masks):
    encoded = [encode(mask) for mask in masks]
    return {"height": masks[0].shape[0], "width": masks[0].shape[1], "strings": [string(x) for x in encoded],
            "union": string(coco.merge(encoded, intersect=False)), "intersection": string(coco.merge(encoded, intersect=True))}


left, right = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
left[:, :6], right[:, 6:] = True, True
merges = [merge_case(group) for group in [
    [noise(12, 9), noise(12, 9)],
    [noise(20, 30, 0.2), blobs(20, 30), blobs(20, 30)],
    [blobs(25, 25), blobs(25, 25, 5, 0.8), blobs(25, 25, 7, 0.8), ~noise(25, 25, 0.05)],
    [ellipse(30, 40, 15, 15, 10, 12), ellipse(30, 40, 24, 13, 12, 9)],
    [ellipse(30, 40, 8, 8, 6, 6), ellipse(30, 40, 30, 20, 6, 6)],
    [ellipse(30, 40, 20, 15, 14, 14), ellipse(30, 40, 20, 15, 5, 5)],
    [left, right], [left, ~left, right], [left, left], [left, left & False], [left | True, right, right],
    [left & False, left & False], [left | True, left | True],
    [pixel(1, 1), pixel(1, 1, (0, 0))], [noise(1, 30), noise(1, 30)],
    [pixel(300, 400, (0, 0)), pixel(300, 400, (299, 399)), pixel(300, 400, (7, 200))],
]]

# ---- IoU of masks


def iou_case(dt, gt, crowd):
    height, width = dt[0].shape
    dt, gt = [encode(mask) for mask in dt], [encode(mask) for mask in gt]
    return {"height": height, "width": width, "dt": [string(x) for x in dt], "gt": [string(x) for x in gt],
            "iscrowd": crowd, "matrix": coco.iou(dt, gt, crowd).tolist()}


def ellipses(height, width, n):
    return [ellipse(height, width, *rng.uniform(0, [width, height]), *rng.uniform(2, 14, 2)) for _ in range(n)]


small, large = ellipse(30, 40, 20, 15, 5, 5), ellipse(30, 40, 20, 15, 14, 14)
ious = [
    iou_case(ellipses(32, 40, 3), ellipses(32, 40, 4), [0, 0, 0, 0]),
    iou_case(ellipses(32, 40, 4), ellipses(32, 40, 3), [0, 1, 0]),
    iou_case(ellipses(20, 20, 5), ellipses(20, 20, 2), [1, 1]),
    iou_case([noise(15, 22) for _ in range(3)], [noise(15, 22) for _ in range(3)], [0, 1, 0]),
    iou_case([left, right, left | right, left & False], [left, right, left | right, left & False], [0, 0, 0, 0]),
    iou_case([left, right, left | right, left & False], [left, right, left | right, left & False], [1, 1, 1, 1]),
    # The boxes overlap, the masks do not.
    iou_case([np.indices((7, 9)).sum(0) % 2 == 0], [np.indices((7, 9)).sum(0) % 2 == 1] * 2, [0, 1]),
    # One inside the other.
    iou_case([small, large], [large, small], [0, 1]),
    iou_case([pixel(1, 1), pixel(1, 1, (0, 0))], [pixel(1, 1, (0, 0))] * 2, [0, 1]),
    iou_case([ellipse(300, 400, 180, 140, 140, 100)], [ellipse(300, 400, 200, 150, 150, 90)] * 2, [0, 1]),
]

# ---- IoU of boxes in xywh; coordinates that 32 bits hold exactly


def eighths(low, high, shape):
    return np.round(rng.uniform(low, high, shape) * 8) / 8


def xywh(n):
    return np.concatenate([eighths(-5, 20, (n, 2)), eighths(4, 30, (n, 2))], 1).tolist()


def box_case(dt, gt, crowd):
    return {"dt": dt, "gt": gt, "iscrowd": crowd, "matrix": coco.iou(dt, gt, crowd).tolist()}


special = [[0, 0, 10, 10], [10, 0, 5, 10], [0, 10, 10, 5], [2.5, 2.5, 5, 5], [20, 20, 1, 1], [9.875, 9.875, 4, 4]]
box_ious = [
    box_case(xywh(3), xywh(4), [0, 0, 0, 0]),
    box_case(xywh(5), xywh(3), [0, 1, 0]),
    box_case(xywh(4), xywh(4), [1, 1, 1, 1]),
    box_case(special, special, [0] * 6),
    box_case(special, special, [1] * 6),
    box_case(special, [[0, 0, 0, 0], [5, 5, 0, 3], [-1000, -1000, 3000, 3000]], [0, 1, 0]),
    box_case([[1e4, 1e4, 0.125, 0.125]], [[1e4, 1e4, 0.25, 0.25], [1e4 + 0.125, 1e4, 0.25, 0.25]], [0, 0]),
    box_case(xywh(1), xywh(1), [0]),
    box_case(xywh(6), xywh(1), [1]),
    box_case(xywh(1), xywh(6), [0, 1, 0, 1, 0, 1]),
]

# ---- polygons


def numbers(points):
    """Flat, with two decimals; whole numbers without a point."""
    flat = [round(float(x), 2) for x in np.ravel(points)]
    return [int(x) if x == int(x) else x for x in flat]


def polygon_case(kind, height, width, *polygons):
    polygons = [numbers(points) for points in polygons]
    assert all(6 <= len(p) <= 40 for p in polygons)
    each = coco.frPyObjects(polygons, height, width)
    return {"kind": kind, "height": height, "width": width, "polygons": polygons,
            "strings": [string(x) for x in each], "union": string(coco.merge(each))}


def scattered(n, height, width, outside=0.2, step=0.01):
    """Vertices anywhere, some outside the image: edges cross."""
    points = rng.uniform(-outside, 1 + outside, (n, 2)) * [width, height]
    return np.round(points / step) * step


def around(n, x, y, low, high):
    """Vertices by angle around a centre: edges do not cross."""
    angles, radii = np.sort(rng.uniform(0, math.tau, n)), rng.uniform(low, high, n)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def spiral(n, x, y, growth):
    """Out for half of the vertices, and back beside them."""
    turns = np.arange(n // 2) * 1.1
    path = lambda grown: np.stack([x + grown * turns * np.cos(turns), y + grown * turns * np.sin(turns)], 1) + 0.37
    return np.concatenate([path(growth), path(growth * 0.75)[::-1]])


def star(n, step, x, y, radius):
    angles = np.arange(n) * step * math.tau / n
    return np.stack([x + radius * np.sin(angles), y - radius * np.cos(angles)], 1)


def comb(teeth, x, y, pitch, length):
    points = [[x + i * pitch / 2, y + (length if i % 2 else 0.6)] for i in range(2 * teeth)]
    return points + [[points[-1][0], y], [x, y]]


polygons = []
add = lambda *case: polygons.append(polygon_case(*case))
for n in [3, 4, 5, 7, 10, 14, 20]:
    add("scattered", 20 + n, 33 - n, scattered(n, 20 + n, 33 - n))
for n in [3, 5, 8, 12, 20]:
    add("simple", 30, 40, around(n, 21.3, 14.8, 5, 16))
for n in [3, 4, 6, 9]:
    add("integers", 24, 28, scattered(n, 24, 28, 0.3, 1))
for n in [3, 4, 6, 9]:
    add("halves", 24, 28, scattered(n, 24, 28, 0.3, 0.5))
for n in [3, 4, 6, 9]:
    add("tenths", 24, 28, scattered(n, 24, 28, 0.3, 0.1))
for n in [3, 5, 8]:
    add("outside on all sides", 17, 13, scattered(n, 17, 13, 2))
for n in [3, 4, 5, 6, 8]:
    add("just negative", 7, 9, np.round(rng.uniform([-0.5, -0.5], [5, 4], (n, 2)), 1 + n % 2))
for n in [4, 6, 9]:
    corners = np.array([[0, 0], [19, 0], [19, 11], [0, 11]])[rng.integers(0, 4, n)]
    add("on the border", 11, 19, np.where(rng.random((n, 2)) < 0.5, corners, scattered(n, 11, 19, 0)))
for box in [(0, 0, 9, 6), (2, 1, 5, 4), (2.5, 1.5, 5.5, 4.5), (1.1, 1.3, 6.9, 4.7), (-3, -2, 20, 20), (-5, 1, 4, 40),
            (8, 5, 9, 6), (9, 0, 12, 6), (3, 6, 5, 9), (3.4, 2.4, 3.6, 2.6), (3.6, 2.1, 4.4, 5), (2, 2.5, 7, 2.5)]:
    add("rectangle", 6, 9, rectangle(*box))
add("rectangle, other way round", 6, 9, np.reshape(rectangle(1.3, 0.7, 6.2, 4.4), (4, 2))[::-1])
add("one point", 8, 8, [3.3, 4.2] * 3)
add("repeated points", 12, 14, np.repeat(around(6, 7, 6, 3, 7), 3, 0))
add("repeated ends", 12, 14, [2, 2, 2, 2, 11.7, 3.1, 9.2, 10.4, 9.2, 10.4, 2, 2])
add("repeated outside", 12, 14, [-2, -3, -2, -3, 11.7, 3.1, 20, 30, 20, 30, -0.4, 8, -0.4, 8])
add("collinear, level", 9, 11, [1, 4, 5, 4, 9.3, 4])
add("collinear, upright", 9, 11, [4.4, 1, 4.4, 8, 4.4, 3])
add("collinear, slanted", 9, 11, [1, 1, 4, 4, 8, 8, 2, 2])
add("there and back", 9, 11, [0.7, 1.2, 9.8, 7.3, 5.1, 2.2, 9.8, 7.3])
add("smaller than a pixel", 8, 8, [3.1, 3.2, 3.7, 3.3, 3.4, 3.9])
add("smaller than a pixel, at its centre", 8, 8, [3.4, 3.4, 3.7, 3.4, 3.5, 3.7])
add("thin", 16, 20, [1, 1.2, 18.6, 13.9, 18.3, 14.2])
add("spike", 16, 20, [2, 3, 12, 3, 12, 9, 19, 9, 12, 9, 12, 13, 2, 13])
add("bow tie", 16, 20, [2, 2, 17.3, 13.6, 17.3, 2.4, 2, 13.1])
add("pentagram", 30, 30, star(5, 2, 15.2, 14.7, 13))
add("star of seven", 40, 40, star(7, 3, 19.9, 20.1, 24))
add("twice around", 14, 14, star(5, 1, 7, 7, 5).tolist() * 2)
add("spiral", 44, 40, spiral(20, 19, 21, 1.9))
add("spiral", 21, 30, spiral(18, 16, 9, 2.6))
add("comb", 18, 34, comb(8, 1.3, 2.2, 4.1, 13.7))
add("comb", 25, 12, np.array(comb(6, -2, 1, 3.3, 9.6))[:, ::-1])
for far in [[-1e4, -1e4, 1e4, -1e4, 0, 1e4], [-1e4, 3, 1e4, 7.77, 1e4, 11], [5.3, -1e4, 11.2, 1e4, 8, 1e4],
            [1e4, 1e4, 1.1e4, 1e4, 1e4, 1.1e4], [-1e4, -9.9e3, 1e4, 1e4, -1e4, 1e4], [6, 6, 1e4, 9876.5, 3, 12],
            [-9999.99, 7.01, 7.99, -8888.88, 12.34, 7777.77, -0.01, 4.56]]:
    add("far", 15, 20, far)
# An edge passes half-way between two points: exact or fused arithmetic, or walking the edge the other way, rounds otherwise.
for height, width, points in [
    (25, 9, [6, 6, 9, 14, 1, 20]), (26, 6, [0, 16, 6, 8, 5, 2]), (28, 31, [4, 6, 19, 6, 28, 1]),
    (16, 38, [17, 4.5, 5, 12, 38.5, 0]),
    (7, 19, [20, 0, -1, 3, 15, 3]), (21, 11, [-0.6, 5.2, 12, 12.8, 6.8, 16.4]), (18, 6, [3, 12, 0, 8, 3, -1]),
    (27, 6, [1.6, 16.4, 5.2, 5.2, 3.8, 9.4]), (5, 38, [36.4, 1.4, 19.8, 0.2, 3.4, 4.8]),
    (26, 19, [17, -2, 0, 25, -1.5, 17]), (33, 9, [0.2, 21.2, 8.8, 36, 2.2, 35.4]), (13, 24, [11, -0.6, 25.8, 7.4, 15.2, 13.4]),
]:
    add("rounding", height, width, points)
for height, width in [(1, 1), (1, 20), (20, 1), (2, 3)]:
    add("narrow image", height, width, scattered(5, height, width, 0.5))
add("two apart", 20, 24, around(6, 6, 6, 3, 5), around(7, 17, 13, 3, 6))
add("two across", 20, 24, around(6, 9, 9, 5, 8), around(7, 15, 11, 5, 8))
add("one in another", 20, 24, rectangle(2, 3, 20, 17), rectangle(6, 6.5, 12.5, 13))
add("side by side", 20, 24, [3, 2, 15.2, 5.7, 11.3, 17.9], [3, 2, 11.3, 17.9, 1, 14])
add("the same twice", 20, 24, rectangle(2, 3, 20, 17), rectangle(2, 3, 20, 17))
add("one outside", 20, 24, around(9, 12, 10, 5, 9), [30, 30, 40, 30, 35, 50])
add("all outside", 20, 24, [-30, -30, -4, -3, -5, -50], [30, 30, 40, 30, 35, 50])
add("five", 30, 36, *(scattered(4, 30, 36) for _ in range(5)))
add("photograph", 480, 640, around(20, 310.5, 244.25, 60, 220))
add("photograph", 427, 640, around(12, 80, 400, 40, 130), around(9, 500, 90, 30, 60))

# ---- overlaps of boxes in xyxy; coordinates that 32 bits hold exactly


def pair_case(first, second):
    a, b = (torch.tensor([box], dtype=torch.float64) for box in (first, second))
    values = {"iou": ops.box_iou, "giou": ops.generalized_box_iou,
              "diou": ops.distance_box_iou, "ciou": ops.complete_box_iou}
    return {"a": first, "b": second, **{name: f(a, b).item() for name, f in values.items()}}


def xyxy(n):
    corner = eighths(0, 40, (n, 2))
    return np.concatenate([corner, corner + eighths(1, 40, (n, 2))], 1).tolist()


pairs = [pair_case(a, b) for a, b in zip(xyxy(14), xyxy(14))]
base = [4, 6, 20, 14]
pairs += [pair_case(base, b) for b in [
    base, [20, 6, 30, 14], [4, 14, 20, 30], [20, 14, 25, 18], [8, 8, 12, 10], [0, 0, 40, 40], [4, 6, 20, 10],
    [4, 6, 12, 14], [100, 200, 110, 260], [8, 2, 16, 18], [6, 6, 22, 14], [4, 8, 20, 16], [8, 6, 16, 22], [0, 0, 4096, 4096],
    [19.875, 13.875, 21, 15], [11.5, 9.5, 12.5, 10.5],
]]

FIXTURES.mkdir(parents=True, exist_ok=True)
sections = {"rle": rles, "merge": merges, "iou": ious, "box_iou": box_ious, "polygons": polygons, "boxes": pairs}
lines = [f'"{name}": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]"
         for name, cases in sections.items()]
(FIXTURES / "masks.json").write_text("{" + ",\n".join(lines) + "}\n")
