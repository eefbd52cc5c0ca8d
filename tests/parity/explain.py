"""Explanations and adversarial examples of pytorch-grad-cam, captum and torchattacks: fixtures.

    $PYTHON tests/parity/explain.py    # needs torch, torchvision, torchmetrics, grad-cam 1.5.7, captum 0.9, torchattacks 3.5.1, safetensors

writes crates/segkiln-explain/tests/fixtures/explain.safetensors. Weights and images by the formulas of rcnn.py; the image goes into the
network as it is for explanations, and by ImageNet's mean and deviation for attacks. Of each network of CASES:
    NAME.mask                   the pixels that it gives the class that it gives most, 1 or 0, `[height, width]`; NAME.class is the class
    NAME.METHOD.LAYER           a class activation map for the sum of the class's logits over the mask
    NAME.METHOD                 captum's attributions, over the channels the largest amount (saliency) or the sum
    NAME.ATTACK                 the changed image after STEPS steps of a quarter of EPSILON (FGSM: one step of all of it) away from the
                                prediction, `[3, height, width]`, and NAME.ATTACK.loss the cross-entropy there
    NAME.ATTACK.certainty       of each value of the changed image, the least amount that decided the sign of a step, as a share of the step's
                                mean amount: where it is nearly 0, the sign is what rounding makes it
    NAME.METHOD.LEVEL           of a detector, for the score of its best object with an area, and the IoU of its box with a box beside it; NAME.box is that box,
                                NAME.label the object's class
    NAME.mask.METHOD.LEVEL      of Mask R-CNN, for the mean of the positive logits of the best object's mask in its box, NAME.mask.box;
                                NAME.mask.score is that mean

    unet.smoothgrad, unet.rise  means over SAMPLES random images, which other random numbers give nearly; captum's, and from the paper
    calibration.*               probabilities `[class, height, width]` and labels, and torchmetrics' expected calibration error of 15 bins
    risk.*                      probabilities of IMAGES images and their labels, and the thresholds of conformal risk control for ALPHAS

all but the masks every STEP-th value. EigenCAM's sign is arbitrary; here it is the one by which the strongest place is positive. SegPGD
and CosPGD are written here from their papers, for torchattacks has none for pixels.

A ReLU that opens or not by the last bits changes gradients, and later steps of an attack with them. Where weights move by 1e-6 of
themselves, the reference's own results move by this much: U-Net (salt g) 0.2 % of the attacked values by more than 1/255, integrated
gradients by 2e-6 of their range; DeepLabV3 37 % of the values after five steps of PGD, integrated gradients by 2e-3. So DeepLabV3's attacks of
several steps are compared by the loss that they reach, and its integrated gradients are not stored.
"""
import os
import re

import numpy as np
import torch
import torchattacks
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from pytorch_grad_cam import AblationCAM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget, SemanticSegmentationTarget
from safetensors.torch import save_file
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError
from torchvision.models import segmentation

import dense
from rcnn import MODELS, build, formula, image
from unet import UNet

OUT = os.path.join(os.path.dirname(__file__), "../../crates/segkiln-explain/tests/fixtures")
STEP = 5
CLASSES = 4
EPSILON, STEPS = 8 / 255, 3
SAMPLES = 600
IMAGES, ALPHAS = 40, [0.05, 0.1, 0.3]
GRADIENTS = {
    "gradcam": GradCAM, "gradcam_plus_plus": GradCAMPlusPlus, "hirescam": HiResCAM, "xgradcam": XGradCAM, "layercam": LayerCAM,
}
RECTIFIED = ["encoder.bottleneck", "decoder.1", "backbone.layer4", "backbone.layer3.2"]


class Signed(EigenCAM):
    def get_cam_image(self, *arguments):
        cam = super().get_cam_image(*arguments)
        flat = cam.reshape(len(cam), -1)
        strongest = np.take_along_axis(flat, np.abs(flat).argmax(1)[:, None], 1)
        return cam * np.where(strongest < 0, -1, 1)[:, :, None]


class Out(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"]


class Normalized(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, x):
        return self.model((x - self.mean) / self.std)


def ours(name):
    """The project's name of a tensor of unet.py's U-Net."""
    name = re.sub(r"^up\.(\d+)\.conv\.", r"up.\1.", name)
    return name.replace(".conv.", ".0.").replace(".norm.", ".1.")


def unet():
    model = UNet(3, CLASSES, 8, 3, kind="batch")
    model.load_state_dict({k: formula(ours(k), v.shape, "g") for k, v in model.state_dict().items()})
    model.eval()
    layers = {
        "encoder.bottleneck": model.encoder.bottleneck,
        "decoder.1": model.decoder[1],
        "decoder.0.first.conv": model.decoder[0].first.conv,
        "decoder.0.first.norm": model.decoder[0].first.norm,
        "up.0": model.up[0],
    }
    return model, layers, ["encoder.bottleneck", "decoder.0.first.conv"], (48, 40)


def deeplab():
    model = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    model.load_state_dict({k: formula(k, v.shape) for k, v in model.state_dict().items()})
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # or what a hook keeps of a norm is behind the ReLU
    layers = {
        "backbone.layer4": model.backbone.layer4,
        "backbone.layer3.2": model.backbone.layer3[2],
        "backbone.layer1.0.bn1": model.backbone.layer1[0].bn1,
        "classifier.aspp": model.classifier[0],
    }
    return Out(model).eval(), layers, ["backbone.layer1.0.bn1"], (65, 49)


CASES = {"unet": unet, "deeplabv3_resnet50": deeplab}


def weighted(name, x, labels, model, step):
    """The loss that PGD, SegPGD or CosPGD climbs."""
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        if name == "segpgd":
            share = step / (2 * STEPS)
            weight = torch.where(logits.argmax(1) == labels, 1 - share, share)
        elif name == "cospgd":
            one_hot = nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
            weight = nn.functional.cosine_similarity(torch.sigmoid(logits), one_hot, dim=1)
        else:
            weight = torch.ones_like(loss)
    return (weight * loss).mean()


def climb(name, x, labels, model):
    """The changed image, and how certain the signs of its steps were."""
    adversarial, certainty, direction = x.clone(), torch.full_like(x, torch.inf), torch.zeros_like(x)
    steps, size = (1, EPSILON) if name == "fgsm" else (STEPS, EPSILON / 4)
    for step in range(steps):
        adversarial.requires_grad_(True)
        gradient, = torch.autograd.grad(weighted(name, adversarial, labels, model, step), adversarial)
        if name == "momentum":
            direction = gradient = gradient / gradient.abs().mean() + direction
        certainty = torch.minimum(certainty, gradient.abs() / gradient.abs().mean())
        adversarial = adversarial.detach() + size * gradient.sign()
        adversarial = (x + (adversarial - x).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    return adversarial, certainty


def attacked(model, x):
    # In 64 bits: where a pixel is about to change its class, SegPGD's weight of it is what rounding makes it.
    model, x = Normalized(model).double().eval(), x.double()
    labels = model(x).argmax(1)
    alpha = EPSILON / 4
    attacks = {
        "fgsm": torchattacks.FGSM(model, eps=EPSILON),
        "pgd": torchattacks.PGD(model, eps=EPSILON, alpha=alpha, steps=STEPS, random_start=False),
        "momentum": torchattacks.MIFGSM(model, eps=EPSILON, alpha=alpha, steps=STEPS, decay=1.0),
        "l2": torchattacks.PGDL2(model, eps=100 * EPSILON, alpha=100 * alpha, steps=STEPS, random_start=False),
    }
    found = {"labels": labels[0].float(), "clean.loss": nn.functional.cross_entropy(model(x), labels)[None]}
    for name in [*attacks, "segpgd", "cospgd"]:
        if name == "l2":
            changed = attacks[name](x, labels)
        else:
            changed, certainty = climb(name, x, labels, model)
            found[f"{name}.certainty"] = certainty[0].flatten()[::STEP]
            if name in attacks:  # the same as torchattacks, but for its rounding to f32
                assert ((attacks[name](x, labels) - changed).abs() > 1e-6).float().mean() < 1e-3
        found[name] = changed[0].flatten()[::STEP]
        found[f"{name}.loss"] = nn.functional.cross_entropy(model(changed), labels)[None]
    return {key: value.float() for key, value in found.items()}


def explained(model, layers, perturbed, x):
    predicted = model(x).argmax(1)[0]
    category = int(torch.bincount(predicted.flatten(), minlength=CLASSES).argmax())
    mask = (predicted == category).float()
    targets = [SemanticSegmentationTarget(category, mask.numpy())]
    found = {"class": torch.tensor([float(category)]), "mask": mask}

    def keep(name, value):
        found[name] = torch.as_tensor(np.asarray(value), dtype=torch.float32).flatten()[::STEP]

    for layer, module in layers.items():
        for name, method in [*GRADIENTS.items(), ("eigencam", Signed)]:
            # Their quotients have poles where a map has both signs.
            if name not in ["gradcam_plus_plus", "xgradcam"] or layer in RECTIFIED:
                keep(f"{name}.{layer}", method(model, [module])(x, targets)[0])
    for layer in perturbed:
        module = layers[layer]
        keep(f"scorecam.{layer}", ScoreCAM(model, [module])(x, targets)[0])
        keep(f"ablationcam.{layer}", AblationCAM(model, [module])(x, targets)[0])
    both = list(layers)[:2]
    keep("gradcam." + "+".join(both), GradCAM(model, [layers[layer] for layer in both])(x, targets)[0])

    def score(images):
        return (model(images)[:, category] * mask).sum((1, 2))

    keep("saliency", Saliency(score).attribute(x)[0].amax(0).detach())
    keep("input_x_gradient", InputXGradient(score).attribute(x)[0].sum(0).detach())
    if "encoder.bottleneck" in layers:
        keep("integrated_gradients", IntegratedGradients(score).attribute(x, n_steps=12)[0].sum(0).detach())
    windows = dict(sliding_window_shapes=(3, 9, 9), strides=(3, 4, 4))
    keep("occlusion", Occlusion(score).attribute(x, baselines=0, **windows)[0, 0].detach())
    found["score"] = score(x).detach()
    return found


class Images(nn.Module):
    """A detector of a batch of one, as pytorch-grad-cam gives it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(list(x))


class Mask(nn.Module):
    """The mean of the positive logits of an object's mask in a box."""

    def __init__(self, model, box, label):
        super().__init__()
        self.model, self.box, self.label = model, box, label

    def forward(self, x):
        images, _ = self.model.transform(list(x))
        features = self.model.backbone(images.tensors)
        ratios = [new / old for new, old in zip(images.image_sizes[0], x.shape[2:])]
        box = self.box * torch.tensor([ratios[1], ratios[0]] * 2)
        heads = self.model.roi_heads
        pooled = heads.mask_roi_pool(features, [box[None]], images.image_sizes)
        logits = heads.mask_predictor(heads.mask_head(pooled))[0, self.label]
        return torch.relu(logits).mean()[None]


def detected(name):
    """Class activation maps at the pyramid's levels that the best object comes from."""
    model = dense.build(name) if name in dense.DETECT else build(name, *MODELS[name])
    x = image(0, 96, 128)[None]
    with torch.no_grad():
        best = model(list(x))[0]
    def near(index):
        """A box beside an object's, as far away as it still is this object's; none if there is no such box, as of an empty one."""
        (width, height), label = best["boxes"][index][2:] - best["boxes"][index][:2], best["labels"][index]
        for share in [1, 0.5, 0.2]:
            box = best["boxes"][index] + share * torch.stack([0.08 * width, -0.05 * height, 0.1 * width, 0.04 * height])
            target = FasterRCNNBoxScoreTarget([label], [box])
            if label > 0 and target(best) > 0:
                return box, target

    index = next(index for index in range(len(best["boxes"])) if near(index))
    box, target = near(index)
    found = {"box": box, "label": best["labels"][index : index + 1].float(), "score": target(best).detach()}
    fpn = model.backbone.fpn
    levels = {f"layer_blocks.{level}": block for level, block in enumerate(fpn.layer_blocks)}
    if name in dense.DETECT:
        levels.update({f"extra_blocks.{level}": getattr(fpn.extra_blocks, level) for level in ["p6", "p7"]})
    asked = [("", Images(model), target)]
    if "masks" in best:
        mask = Mask(model, best["boxes"][index], best["labels"][index])
        found.update({"mask.box": best["boxes"][index], "mask.score": mask(x).detach()})
        asked.append(("mask.", mask, lambda score: score))
    for prefix, network, target in asked:
        for level, module in levels.items():
            for method in ["gradcam", "hirescam"]:
                try:
                    map = GRADIENTS[method](network, [module])(x, [target])[0]
                except (AttributeError, IndexError):  # no gradient comes to this level
                    continue
                if map.max() > 0:
                    found[f"{prefix}{method}.backbone.fpn.{level}"] = torch.from_numpy(map).flatten()[::STEP]
    return found


def sampled(model, x):
    """Means over random images, for the sum of class 0's logits."""
    size = x.shape[2:]
    generator = torch.Generator().manual_seed(1)

    def score(images):
        return model(images)[:, 0].sum((1, 2))

    torch.manual_seed(1)
    deviation = 0.15 * (x.max() - x.min()).item()
    tunnel = NoiseTunnel(Saliency(score))
    smooth = tunnel.attribute(x, nt_type="smoothgrad", nt_samples=SAMPLES, nt_samples_batch_size=50, stdevs=deviation, abs=False)
    total, seen = torch.zeros(size), []
    masks = []
    for _ in range(SAMPLES):  # RISE: 8 cells a side and one more, enlarged, and shifted by up to a cell
        cells = (torch.rand(1, 1, 9, 9, generator=generator) < 0.5).float()
        cell = [-(-side // 8) for side in size]
        large = nn.functional.interpolate(cells, [9 * side for side in cell], mode="bilinear")[0, 0]
        top, left = [int(torch.randint(0, side, (1,), generator=generator)) for side in cell]
        masks.append(large[top : top + size[0], left : left + size[1]])
    with torch.no_grad():
        for start in range(0, SAMPLES, 50):
            seen.append(score(x * torch.stack(masks[start : start + 50])[:, None]))
    seen = torch.cat(seen)
    for mask, value in zip(masks, seen - seen.mean()):
        total += value * mask / (SAMPLES * 0.5)
    return {"smoothgrad": smooth[0].abs().amax(0).detach().flatten()[::STEP], "rise": total.flatten()[::STEP]}


def calibrated():
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(1, CLASSES, 20, 24, generator=generator)
    probabilities = logits.softmax(1)
    noisy = 0.6 * logits - torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))  # less sure than it says
    labels = noisy.argmax(1)
    error = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1")(probabilities, labels)
    found = {"calibration.probabilities": probabilities[0], "calibration.labels": labels[0].float(), "calibration.error": error[None]}

    # Angelopoulos et al., equation 4, for thresholds that are as strict as they can be: sup {t: (n R(t) + 1) / (n + 1) <= alpha}.
    scores = torch.rand(IMAGES, 1, 1, generator=generator) * 0.6 + 0.4 * torch.rand(IMAGES, 6, 7, generator=generator)
    labels = (torch.rand(IMAGES, 6, 7, generator=generator) < 0.7).float()
    thresholds = torch.arange(1001) / 1000
    missed = (scores.double() < thresholds.double()[:, None, None, None]).double() * labels
    risk = (missed.sum((2, 3)) / labels.sum((1, 2))).mean(1)
    chosen = [thresholds[((IMAGES * risk + 1) / (IMAGES + 1) <= alpha).nonzero().max()] for alpha in ALPHAS]
    found.update({"risk.scores": scores, "risk.labels": labels, "risk.thresholds": torch.stack(chosen)})
    return found


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    tensors = {}
    for name, make in CASES.items():
        model, layers, perturbed, size = make()
        x = image(0, *size)[None]
        found = {**explained(model, layers, perturbed, x), **attacked(model, x)}
        if name == "unet":
            found.update(sampled(model.float(), x))
        tensors.update({f"{name}.{key}": value.detach().contiguous().clone() for key, value in found.items()})
        print(name, {key: round(value.item(), 4) for key, value in found.items() if key.endswith("loss")}, "class", int(found["class"]), found["mask"].mean().item())
    for name in ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]:
        found = detected(name)
        tensors.update({f"{name}.{key}": value.detach().contiguous().clone() for key, value in found.items()})
        print(name, list(found), found["score"])
    tensors.update({key: value.detach().contiguous().clone() for key, value in calibrated().items()})
    path = os.path.join(OUT, "explain.safetensors")
    save_file(tensors, path)
    print(os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
