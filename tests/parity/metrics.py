"""Values of the metrics, by torchmetrics, MONAI, SciPy and plain NumPy.

    python tests/parity/metrics.py

writes crates/segkiln-metrics/tests/fixtures/metrics.json, which crates/segkiln-metrics/tests/metrics.rs reads.
Needs monai 1.6, numpy, scipy, torch and torchmetrics 1.9.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from torchmetrics.functional import classification as tm
from torchmetrics.functional.detection import panoptic_quality

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-metrics/tests/fixtures"
IGNORE = 255
rng = np.random.default_rng(11)


def smooth_labels(shape, labels, sigma):
    """Labels in blobs."""
    noise = rng.normal(size=(labels, *shape))
    return np.stack([ndimage.gaussian_filter(n, sigma) for n in noise]).argmax(0)


def as_map(labels):
    return {"width": labels.shape[1], "height": labels.shape[0], "labels": labels.ravel().tolist()}


def number(x):
    """Finite numbers as such, infinity as a string, NaN as null."""
    x = float(x)
    return None if math.isnan(x) else x if math.isfinite(x) else "inf"


# ---- pixel-wise: torchmetrics


def confusion(predicted, target, classes, ignored):
    p, t = torch.tensor(predicted), torch.tensor(target)
    options = {"num_classes": classes, "ignore_index": IGNORE if ignored else None}
    figures = {"iou": tm.multiclass_jaccard_index, "dice": tm.multiclass_f1_score,
               "precision": tm.multiclass_precision, "recall": tm.multiclass_recall}
    expected = {
        "accuracy": number(tm.multiclass_accuracy(p, t, average="micro", **options)),
        "mean_accuracy": number(tm.multiclass_accuracy(p, t, average="macro", **options)),
        "kappa": number(tm.multiclass_cohen_kappa(p, t, **options)),
        "counts": tm.multiclass_confusion_matrix(p, t, **options).ravel().tolist(),
    }
    for name, figure in figures.items():
        for average in ["micro", "macro", "weighted"]:
            expected[f"{name}.{average}"] = number(figure(p, t, average=average, **options))
        expected[name] = [number(x) for x in figure(p, t, average="none", **options)]
    return {"predicted": predicted.ravel().tolist(), "target": target.ravel().tolist(), "classes": classes,
            "ignore_index": IGNORE if ignored else None, "expected": expected}


confusions = []
for classes, used, ignored in [(2, 2, False), (3, 3, True), (6, 4, True)]:
    target = rng.integers(0, used, (2, 9, 8))
    predicted = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, used, target.shape))
    if used < classes:
        predicted[0, 0, :3] = used  # a class that is only predicted; the last one does not occur at all
    if ignored:
        target[rng.random(target.shape) < 0.2] = IGNORE
    confusions.append(confusion(predicted, target, classes, ignored))

# ---- contours: MONAI, and the boundary IoU of Cheng et al. 2021


def boundary(mask, ratio):
    distance = max(1, int(round(ratio * math.hypot(*mask.shape))))
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), distance)


def surface(predicted, target, spacing, tolerance, ratio):
    one_hot = lambda mask: torch.tensor(mask)[None, None].float()
    p, t = one_hot(predicted), one_hot(target)
    options = {"include_background": True, "spacing": spacing}
    edges = [boundary(mask, ratio) for mask in (predicted, target)]
    union = (edges[0] | edges[1]).sum()
    hausdorff = number(compute_hausdorff_distance(p, t, **options))
    hausdorff_95 = number(compute_hausdorff_distance(p, t, percentile=95, **options))
    return {
        "predicted": as_map(predicted.astype(int)), "target": as_map(target.astype(int)),
        "spacing": spacing, "tolerance": tolerance, "ratio": ratio,
        "expected": {
            "hausdorff": hausdorff,
            # PyTorch's quantile of infinities is NaN.
            "hausdorff_95": "inf" if hausdorff == "inf" else hausdorff_95,
            "average": number(compute_average_surface_distance(p, t, **options)),
            "average_symmetric": number(compute_average_surface_distance(p, t, symmetric=True, **options)),
            "surface_dice": number(compute_surface_dice(p, t, [tolerance], **options)),
            "boundary_iou": number((edges[0] & edges[1]).sum() / union) if union else None,
        },
    }


surfaces = []
for shape, sigma, spacing, tolerance in [((24, 20), 2, [1.0, 1.0], 1.0), ((17, 31), 1, [0.5, 2.0], 1.5),
                                         ((30, 30), 3, [1.0, 1.0], 2.0), ((12, 9), 0.5, [1.0, 1.0], 0.0)]:
    target = smooth_labels(shape, 2, sigma) == 1
    predicted = np.roll(target, 2, 1) ^ (rng.random(shape) < 0.02)
    surfaces.append(surface(predicted, target, spacing, tolerance, 0.05))
dot = np.zeros((9, 11), bool)
dot[3, 4] = True
block = np.zeros((9, 11), bool)
block[5:, 6:] = True
for predicted, target in [(dot, block), (block, dot), (~dot, dot), (dot, dot), (dot & False, block), (block, dot & False)]:
    surfaces.append(surface(predicted, target, [1.0, 1.0], 2.0, 0.02))

# ---- instances: NumPy on the dense table of overlaps


def instances(predicted, target):
    p_labels, t_labels = (np.unique(m[m > 0]) for m in (predicted, target))
    both = np.array([[((predicted == p) & (target == t)).sum() for p in p_labels] for t in t_labels])
    both = both.reshape(len(t_labels), len(p_labels))
    p_areas = np.array([(predicted == p).sum() for p in p_labels])
    t_areas = np.array([(target == t).sum() for t in t_labels])
    union = t_areas[:, None] + p_areas[None] - both
    iou = both / union

    def counts(threshold):
        found = int((iou > threshold).sum())
        return found, len(p_labels) - found, len(t_labels) - found

    thresholds = np.arange(0.5, 1.0, 0.05)
    scores = [tp / (tp + fp + fn) for tp, fp, fn in map(counts, thresholds)]
    tp, fp, fn = counts(0.5)
    pq = iou[iou > 0.5].sum() / (tp + 0.5 * fp + 0.5 * fn)

    # Kumar et al. 2017: the best prediction of each target; then what was never chosen.
    best = iou.argmax(1)
    rows = np.flatnonzero(iou.max(1, initial=0) > 0)
    chosen = best[rows]
    unpaired = np.delete(t_areas, rows).sum() + np.delete(p_areas, np.unique(chosen)).sum()
    aji = both[rows, chosen].sum() / (union[rows, chosen].sum() + unpaired)

    # torchmetrics sees instances as (category, id) and all of the background as one stuff region.
    panoptic = lambda m: torch.tensor(np.stack([(m > 0).astype(int), m], -1))[None]
    of_things, _ = panoptic_quality(panoptic(predicted), panoptic(target), {1}, {0}, return_per_class=True)[0]
    assert abs(of_things - pq) < 1e-6
    return {
        "predicted": as_map(predicted), "target": as_map(target),
        "expected": {
            "counts": [counts(t) for t in (0.5, 0.7, 0.9)],
            "f1": [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in map(counts, (0.5, 0.7, 0.9))],
            "data_science_bowl": float(np.mean(scores)),
            "panoptic_quality": float(pq),
            "segmentation_quality": float(iou[iou > 0.5].mean()) if tp else 0.0,
            "aggregated_jaccard": float(aji),
        },
    }


instance_cases = []
for shape, sigma, shift, noise, ids in [((32, 28), 2, 1, 0, 1), ((40, 24), 1.5, 0, 0.02, 1000), ((30, 30), 3, 1, 0.002, 70000)]:
    field = ndimage.gaussian_filter(rng.random(shape), sigma)
    target = ndimage.label(field > np.quantile(field, 0.6))[0]
    noisy = np.roll(field, shift, 0) + rng.normal(size=shape) * noise
    predicted = ndimage.label(noisy > np.quantile(noisy, 0.6))[0] * ids
    instance_cases.append(instances(predicted, target))
instance_cases.append(instances(target, target * 0))
instance_cases.append(instances(target, target[::-1]))

FIXTURES.mkdir(parents=True, exist_ok=True)
sections = {"confusion": confusions, "surface": surfaces, "instances": instance_cases}
lines = [f'"{name}": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]"
         for name, cases in sections.items()]
(FIXTURES / "metrics.json").write_text("{" + ",\n".join(lines) + "}\n")
