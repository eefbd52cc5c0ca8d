"""Values and gradients of the losses, by PyTorch and segmentation_models_pytorch in double precision.

    python tests/parity/losses.py

writes crates/segkiln-metrics/tests/fixtures/losses.{json,safetensors}, which crates/segkiln-metrics/tests/losses.rs reads.
Needs numpy, safetensors, scipy, segmentation_models_pytorch 0.6 and torch.
"""

import json
from pathlib import Path

import numpy as np
import segmentation_models_pytorch.losses as smp
import segmentation_models_pytorch.losses.lovasz as smp_lovasz
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from scipy.ndimage import distance_transform_edt

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-metrics/tests/fixtures"
IGNORE = 255
rng = np.random.default_rng(7)


def blobs(shape, classes, ignored):
    """Targets in rows of like labels, so that regions have an inside; the last class is missing from image 0."""
    targets = np.sort(rng.integers(0, classes, shape), axis=1)
    targets[0][targets[0] == classes - 1] = 0 if classes > 2 else 1
    if ignored:
        targets[rng.random(shape) < 0.25] = IGNORE
    return targets


inputs = {}
for name, channels in [("binary", 1), ("multi", 3)]:
    inputs[f"{name}.logits"] = (rng.normal(size=(2, channels, 5, 7)) * 3).astype(np.float32)
    inputs[f"{name}.targets"] = blobs((2, 5, 7), max(channels, 2), False)
    inputs[f"{name}.ignored"] = blobs((2, 5, 7), max(channels, 2), True)
# Classes 1 and 2 do not occur, nor does the foreground.
inputs["multi.absent"] = np.zeros((2, 5, 7), np.int64)
inputs["binary.absent"] = np.zeros((2, 5, 7), np.int64)
inputs["multi.all"] = rng.integers(0, 3, (2, 5, 7))
inputs["small.logits"] = (rng.normal(size=(2, 3, 3, 4)) * 3).astype(np.float32)
inputs["tiny.logits"] = (rng.normal(size=(2, 3, 2, 3)) * 3).astype(np.float32)

cases, expected = [], {}


def tensors(logits, targets):
    x = torch.tensor(inputs[f"{logits}.logits"], dtype=torch.float64, requires_grad=True)
    return x, torch.tensor(inputs[f"{logits}.{targets}"], dtype=torch.int64)


def case(loss, options, logits, targets, reference):
    """`reference(logits, targets)` is a number, or [N, H, W] for a loss without reduction."""
    x, y = tensors(logits, targets)
    value = reference(x, y)
    weights = torch.ones_like(value)
    if value.dim() == 3:
        # Uneven weights, so that a wrong pixel shows in the gradient.
        weights = torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape) / value.numel()
    (value * weights).sum().backward()
    index = len(cases)
    expected[f"{index}.value"] = np.atleast_1d(value.detach().numpy()).astype(np.float32)
    expected[f"{index}.grad"] = x.grad.numpy().astype(np.float32)
    cases.append({"loss": loss, "options": options, "logits": logits, "targets": targets, "pixels": value.dim() == 3})


def valid_pixels(x, y):
    """[P, C] logits and [P] targets of the pixels that are not ignored."""
    keep = y != IGNORE
    return x.movedim(1, -1)[keep], y[keep]


# ---- cross-entropy

WEIGHTS = [0.5, 2.0, 1.25]


def cross_entropy(**options):
    def reference(x, y):
        if x.shape[1] == 1:
            x = torch.cat([torch.zeros_like(x), x], 1)
        weight = options.get("weight")
        kwargs = dict(options, weight=None if weight is None else torch.tensor(weight, dtype=x.dtype))
        return F.cross_entropy(x, y, ignore_index=IGNORE, **kwargs)

    return reference


for logits, weights in [("multi", WEIGHTS), ("binary", WEIGHTS[:2])]:
    for targets, ignore in [("targets", {}), ("ignored", {"ignore_index": IGNORE})]:
        case("cross_entropy", ignore, logits, targets, cross_entropy())
        case("cross_entropy", ignore | {"class_weights": weights}, logits, targets, cross_entropy(weight=weights))
        case("cross_entropy", ignore | {"label_smoothing": 0.2}, logits, targets, cross_entropy(label_smoothing=0.2))
        case("cross_entropy", ignore | {"label_smoothing": 0.2, "class_weights": weights}, logits, targets,
             cross_entropy(weight=weights, label_smoothing=0.2))
case("cross_entropy", {"ignore_index": IGNORE, "reduction": "sum"}, "multi", "ignored", cross_entropy(reduction="sum"))
case("cross_entropy", {"ignore_index": 1}, "multi", "targets", lambda x, y: F.cross_entropy(x, y, ignore_index=1))
case("cross_entropy", {"ignore_index": IGNORE, "label_smoothing": 0.1, "class_weights": WEIGHTS}, "multi", "ignored",
     cross_entropy(weight=WEIGHTS, label_smoothing=0.1, reduction="none"))


def top_k(percent):
    def reference(x, y):
        losses = F.cross_entropy(*valid_pixels(x, y), reduction="none")
        return losses.topk(int(losses.numel() * percent / 100)).values.mean()

    return reference


def ohem(threshold, min_kept, weight=None):
    def reference(x, y):
        x, y = valid_pixels(x, y)
        probability = x.softmax(1).gather(1, y[:, None])[:, 0]
        bound = max(threshold, probability.sort().values[min(min_kept, len(probability) - 1)].item())
        weight_tensor = None if weight is None else torch.tensor(weight, dtype=x.dtype)
        return F.cross_entropy(x, y, weight_tensor, reduction="none")[probability < bound].mean()

    return reference


for targets, ignore in [("targets", {}), ("ignored", {"ignore_index": IGNORE})]:
    case("cross_entropy", ignore | {"hard_pixels": {"top_k": {"percent": 20.0}}}, "multi", targets, top_k(20))
    for threshold, kept in [(0.7, 5), (0.05, 30)]:
        hard = {"hard_pixels": {"ohem": {"threshold": threshold, "min_kept": kept}}}
        case("cross_entropy", ignore | hard, "multi", targets, ohem(threshold, kept))
hard = {"hard_pixels": {"ohem": {"threshold": 0.5, "min_kept": 3}}, "class_weights": WEIGHTS}
case("cross_entropy", hard, "multi", "targets", ohem(0.5, 3, WEIGHTS))

# ---- binary cross-entropy


def bce(weight=None, pos_weight=None, reduction="mean"):
    def reference(x, y):
        channels = x.shape[1]
        labels = torch.arange(channels) if channels > 1 else torch.ones(1, dtype=torch.int64)
        shape = (1, channels, 1, 1)
        truth = (y[:, None] == labels.reshape(shape)).to(x.dtype)
        column = lambda w: None if w is None else torch.tensor(w, dtype=x.dtype).reshape(shape)
        losses = F.binary_cross_entropy_with_logits(
            x, truth, column(weight), reduction="none", pos_weight=column(pos_weight))
        keep = (y != IGNORE)[:, None].expand_as(losses)
        if reduction == "none":
            return (losses * keep).mean(1)
        return losses[keep].mean() if reduction == "mean" else losses[keep].sum()

    return reference


for logits, weight in [("binary", [2.5]), ("multi", [0.5, 2.0, 3.0])]:
    for targets, ignore in [("targets", {}), ("ignored", {"ignore_index": IGNORE})]:
        case("bce", ignore, logits, targets, bce())
        case("bce", ignore | {"pos_weight": weight}, logits, targets, bce(pos_weight=weight))
        case("bce", ignore | {"weight": weight, "pos_weight": weight}, logits, targets, bce(weight, weight))
    case("bce", {"ignore_index": IGNORE, "reduction": "sum"}, logits, "ignored", bce(reduction="sum"))
    case("bce", {"ignore_index": IGNORE, "pos_weight": weight}, logits, "ignored", bce(None, weight, "none"))

# ---- regions: segmentation_models_pytorch


def mode(x):
    return "binary" if x.shape[1] == 1 else "multiclass"


def by_smp(loss, **options):
    return lambda x, y: loss(mode(x), **options)(x, y)


SMOOTH = {"smooth": 1.0}
LOG = {"log_loss": True}
SUBSET = {"classes": [0, 2]}
CLASS_WEIGHTS = {"class_weights": WEIGHTS}
REGIONS = [("dice", smp.DiceLoss, {}), ("jaccard", smp.JaccardLoss, {}),
           ("tversky", smp.TverskyLoss, {"alpha": 0.3, "beta": 0.8, "gamma": 1.5})]
for name, loss, own in REGIONS:
    for logits, variants in [("binary", [{}, SMOOTH, LOG]),
                             ("multi", [{}, SMOOTH, LOG, SUBSET, CLASS_WEIGHTS, SUBSET | CLASS_WEIGHTS])]:
        for options in variants:
            case(name, own | options, logits, "targets", by_smp(loss, **own, **options))
        for options in [{}, SMOOTH]:
            options = own | options | {"ignore_index": IGNORE}
            case(name, options, logits, "ignored", by_smp(loss, **options))
            case(name, own | SMOOTH, logits, "absent", by_smp(loss, **own, **SMOOTH))
case("tversky", {}, "multi", "targets", by_smp(smp.TverskyLoss))
case("dice", {"eps": 0.5}, "multi", "absent", by_smp(smp.DiceLoss, eps=0.5))
case("dice", {"ignore_index": 0}, "multi", "targets", by_smp(smp.DiceLoss, ignore_index=0))


def focal_tversky(alpha=0.3, beta=0.7, gamma=0.75, ignore=False):
    def reference(x, y):
        losses = []
        for channel in range(x.shape[1]):
            only = {"classes": [channel]} if x.shape[1] > 1 else {}
            loss = smp.TverskyLoss(mode(x), alpha=alpha, beta=beta, ignore_index=IGNORE if ignore else None, **only)
            losses.append(loss(x, y) ** gamma)
        return torch.stack(losses).mean()

    return reference


for logits in ["binary", "multi"]:
    case("focal_tversky", {}, logits, "targets", focal_tversky())
    case("focal_tversky", {"ignore_index": IGNORE, "alpha": 0.6, "gamma": 1.3}, logits, "ignored",
         focal_tversky(0.6, gamma=1.3, ignore=True))

# ---- focal

FOCAL = [{}, {"gamma": 0.5}, {"alpha": 0.25}, {"gamma": 0.0}, {"normalized": True}, {"reduced_threshold": 0.5},
         {"reduced_threshold": 0.3, "alpha": 0.7, "normalized": True, "gamma": 3.0}, {"reduction": "sum"}]
for logits in ["binary", "multi"]:
    for options in FOCAL:
        case("focal", options, logits, "targets", by_smp(smp.FocalLoss, **options))
    for options in [{}, {"normalized": True, "alpha": 0.3}]:
        options = options | {"ignore_index": IGNORE}
        case("focal", options, logits, "ignored", by_smp(smp.FocalLoss, **options))
case("focal", CLASS_WEIGHTS, "multi", "targets", by_smp(smp.FocalLoss, **CLASS_WEIGHTS))
case("focal", {"alpha": 0.25}, "binary", "targets",
     lambda x, y: smp.FocalLoss("binary", alpha=0.25, reduction="none")(x, y).reshape(y.shape))

# ---- Lovász


def error_weights(truth):
    """The library's own, but in double precision."""
    truth = truth.double()
    missed = truth.sum() - truth.cumsum(0)
    jaccard = 1 - missed / (truth.sum() + (1 - truth).cumsum(0))
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


smp_lovasz._lovasz_grad = error_weights
for logits in ["binary", "multi"]:
    for per_image in [False, True]:
        options = {"per_image": per_image}
        case("lovasz", options, logits, "targets", by_smp(smp.LovaszLoss, **options))
        options = options | {"ignore_index": IGNORE}
        case("lovasz", options, logits, "ignored", by_smp(smp.LovaszLoss, **options))
    case("lovasz", {}, logits, "absent", by_smp(smp.LovaszLoss))

# ---- Matthews correlation


def binary_mcc(eps=1e-5):
    def reference(x, y):
        x, y = valid_pixels(x, y)
        return smp.MCCLoss(eps)(x.sigmoid().reshape(1, -1), y.reshape(1, -1).to(x.dtype))

    return reference


def correlation_r_k(x, y):
    x, y = valid_pixels(x, y)
    p, t = x.softmax(1), F.one_hot(y, x.shape[1]).to(x.dtype)
    s, c = len(y), (p * t).sum()
    p, t = p.sum(0), t.sum(0)
    return 1 - (c * s - (p * t).sum()) / ((s**2 - (p**2).sum()) * (s**2 - (t**2).sum())).sqrt()


case("mcc", {}, "binary", "targets", binary_mcc())
case("mcc", {"eps": 0.1}, "binary", "targets", binary_mcc(0.1))
case("mcc", {"ignore_index": IGNORE}, "binary", "ignored", binary_mcc())
case("mcc", {}, "binary", "absent", binary_mcc())
case("mcc", {"eps": 1e-9}, "multi", "targets", correlation_r_k)
case("mcc", {"eps": 1e-9, "ignore_index": IGNORE}, "multi", "ignored", correlation_r_k)

# ---- boundary


def boundary(classes=None):
    def reference(x, y):
        channels = x.shape[1]
        probability = x.sigmoid() if channels == 1 else x.softmax(1)
        maps = torch.zeros_like(probability)
        for image in range(len(y)):
            for channel in range(channels):
                inside = (y[image] == (1 if channels == 1 else channel)).numpy()
                if inside.any() and not inside.all():
                    signed = distance_transform_edt(~inside) * ~inside - (distance_transform_edt(inside) - 1) * inside
                    maps[image, channel] = torch.tensor(signed)
        chosen = list(range(channels)) if classes is None else classes
        keep = (y != IGNORE)[:, None].expand_as(x[:, chosen])
        return (probability * maps)[:, chosen][keep].mean()

    return reference


for logits in ["binary", "multi"]:
    case("boundary", {}, logits, "targets", boundary())
    case("boundary", {"ignore_index": IGNORE}, logits, "ignored", boundary())
case("boundary", {"classes": [1]}, "multi", "targets", boundary([1]))
case("boundary", {}, "multi", "absent", boundary())

# ---- deep supervision: the same Dice loss on three sizes

y = tensors("multi", "all")[1]
outputs, total = [], 0
for weight, name in [(1.0, "multi"), (0.5, "small"), (0.25, "tiny")]:
    x = torch.tensor(inputs[f"{name}.logits"], dtype=torch.float64, requires_grad=True)
    small = F.interpolate(y[:, None].float(), x.shape[2:], mode="nearest")[:, 0].long()
    total = total + weight * smp.DiceLoss("multiclass")(x, small)
    outputs.append(x)
total.backward()
expected["deep.value"] = np.array([total.item()], np.float32)
for i, x in enumerate(outputs):
    expected[f"deep.grad{i}"] = x.grad.numpy().astype(np.float32)

FIXTURES.mkdir(parents=True, exist_ok=True)
narrow = {name: a.astype(np.int32) if a.dtype == np.int64 else a for name, a in inputs.items()}
save_file(narrow | expected, FIXTURES / "losses.safetensors")
(FIXTURES / "losses.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases")
