"""The segmentation networks of torchvision and of segmentation_models_pytorch, and the first two DeepLabs: fixtures, and a comparison with `segment`.

    $PYTHON tests/parity/segmentation.py            # needs torch, torchvision, segmentation_models_pytorch and safetensors
    $PYTHON tests/parity/segmentation.py --check    # also says how far rounding and small changes of the weights move the results

writes crates/segkiln-models/tests/fixtures/segmentation.safetensors: what the networks of CASES give in evaluation, and a training step of
those of TRAINING. Weights and images by the formulas of rcnn.py; the image goes into the network as it is. `NAME.HEIGHTxWIDTH.out` and `.aux`
hold every STEP-th logit of the flattened [1, 5, HEIGHT, WIDTH], all of them where there are less than STEP. `train.NAME.` are, after one step
in training mode without dropout on the first images as a batch:
    loss              sum(out * noise("out")) / numel + 0.5 * sum(aux * noise("aux")) / numel
    out, aux          every STEP-th logit
    norms             of the gradients of all parameters, sorted by their names; of biases that a later norm takes away, nearly 0
    grad.PARAMETER    part of a gradient, by the steps in TRAINING; one ReLU that opens by the last bits moves it by some per cent
    after.BUFFER      running statistics

    cargo build --example segment
    $PYTHON tests/parity/segmentation.py --program target/debug/examples/segment [--arch NAME...] [--keep DIR]

runs the program and PyTorch on the same images with the same random weights, and compares the logits. Prints one line per case, and ends
with status 1 where one fails. --floor compares PyTorch in 64 bits instead of the program: the difference that rounding alone makes.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import _utils, mobilenetv2, mobilenetv3, resnet, segmentation, vgg
from torchvision.transforms._presets import SemanticSegmentation

from backbones import fill, tensors, translated
from rcnn import OUT, image, noise

STEP = 61  # has no factor in common with a width
TORCHVISION = [
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
]
PAPERS = [f"deeplabv{v}_{b}" for v in (1, 2) for b in ["resnet50", "resnext50_32x4d", "vgg16_bn"]]
DECODERS = {"unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus, "deeplabv3plus": smp.DeepLabV3Plus, "pspnet": smp.PSPNet, "fpn": smp.FPN, "upernet": smp.UPerNet}
# segmentation_models_pytorch's names of encoders that it has not by torchvision's. Its efficientnet-b1 pads as for an image of 240 pixels, so
# sides must be odd multiples of 16; its efficientnet-b0 takes its map of stride 16 from the middle of a stage. Where `segment` is given
# torchvision's name, it finds by the names in the file which network it is.
OTHERS = {
    "mobilenet_v3_large": "tu-mobilenetv3_large_100", "mobilenet_v3_small": "tu-mobilenetv3_small_100", "convnext_tiny": "tu-convnext_tiny",
    "efficientnet_b0": "timm-efficientnet-b0", "tf_efficientnet_b1": "efficientnet-b1", "tf_efficientnet_b0": "efficientnet-b0",
}
ENCODERS = ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "mobilenet_v2", "vgg16_bn"]
NAMES = TORCHVISION + [f"{d}_{e}" for d in DECODERS for e in ENCODERS if (d, e) != ("deeplabv3plus", "vgg16_bn")] + PAPERS + [
    "unet_convnext_tiny", "fpn_convnext_tiny", "unet_efficientnet_b0", "unetplusplus_efficientnet_b0", "deeplabv3plus_efficientnet_b0",
    "unet_tf_efficientnet_b1", "unet_tf_efficientnet_b0", "fpn_tf_efficientnet_b0", "unetplusplus_convnext_tiny", "pspnet_convnext_tiny",
    "deeplabv3plus_convnext_tiny",
] + [f"{d}_mobilenet_v3_{size}" for d in DECODERS for size in ["large", "small"]] + [
    "unetplusplus_timm-mobilenetv3_large_100", "deeplabv3plus_tu-tf_mobilenetv3_small_100", "unet_tu-efficientnet_b0", "deeplabv3plus_tu-tf_efficientnet_b0",
    "deeplabv3plus_tu-resnet18", "pspnet_tu-resnet50", "fpn_timm-tf_efficientnet_lite0",
]

# Factors that come before those of rcnn.py, by a part of the name of the weights.
BASIC = [(".conv2.weight", 0.4)]                                  # ResNet-18 and -34: the end of a residual branch
INVERTED = [(".conv.2.weight", 0.6)]                              # MobileNetV2: the end of a block
SQUEEZE = [(".block.3.0.", 1.2), (".fc1.", 2.0), (".fc2.", 3.0)]  # MobileNetV3, EfficientNet: squeeze and excitation, and what follows it
SCALE = [("layer_scale", 0.2)]                                    # ConvNeXt: the end of a block
# name: (sizes, factors, arguments). In the wide images the dilated convolutions of the pyramid reach other columns: the maps have 38.
ODD, EVEN, ONE = (65, 49), (64, 96), (1, 1)
CASES = {
    "deeplabv1_resnet50": ([ODD, ONE, (24, 304)], [], {}),
    "deeplabv1_vgg16_bn": ([ODD, (24, 304)], [], {}),
    "deeplabv2_resnet50": ([ODD, ONE, (24, 304)], [], {}),
    "deeplabv2_vgg16_bn": ([ODD, (24, 304)], [], {}),
    "fcn_resnet50": ([ODD, ONE], [], {}),
    "deeplabv3_resnet50": ([ODD, ONE, (24, 304)], [], {}),
    "deeplabv3_mobilenet_v3_large": ([ODD, ONE, (16, 608)], SQUEEZE, {}),
    "lraspp_mobilenet_v3_large": ([ODD, ONE], SQUEEZE, {}),
    "unet_resnet34": ([EVEN, ODD], BASIC, {}),
    "unet_mobilenet_v2": ([EVEN], INVERTED, {}),
    "unet_vgg16_bn": ([EVEN, ODD], [], {}),
    "unetplusplus_resnet34": ([EVEN], BASIC, {}),
    "deeplabv3plus_resnet34": ([EVEN, (32, 608)], BASIC, {}),
    "deeplabv3plus_resnet50": ([EVEN, (32, 304)], [], dict(encoder_output_stride=8)),
    "deeplabv3plus_mobilenet_v2": ([EVEN], INVERTED, {}),
    "pspnet_resnet34": ([EVEN], BASIC, {}),
    "fpn_resnet34": ([EVEN], BASIC, {}),
    "unet_convnext_tiny": ([EVEN, ODD], SCALE, {}),
    "unetplusplus_convnext_tiny": ([EVEN], SCALE, {}),
    "deeplabv3plus_convnext_tiny": ([EVEN], SCALE, dict(encoder_output_stride=8)),
    "deeplabv3plus_mobilenet_v3_large": ([EVEN], SQUEEZE, {}),
    "unet_efficientnet_b0": ([EVEN], SQUEEZE, {}),
    "unet_tf_efficientnet_b1": ([(48, 80)], SQUEEZE, {}),
    "upernet_resnet34": ([EVEN], BASIC, {}),
    "upernet_convnext_tiny": ([EVEN], SCALE, {}),
}
# name: (size and number of images, salt of the formula, factors, the stored gradients with the steps along their axes, batch norms whose all is stored)
TRAINING = {
    "unet_resnet34": (EVEN, 2, "e", BASIC, {
        "encoder.conv1.weight": (8,),
        "encoder.layer2.0.conv1.weight": (16, 16),
        "encoder.layer4.2.conv2.weight": (64, 64),
        "decoder.blocks.0.conv1.0.weight": (32, 64),
        "decoder.blocks.4.conv2.0.weight": (4, 1),
        "segmentation_head.0.weight": (),
        "segmentation_head.0.bias": (),
    }, ["encoder.bn1", "decoder.blocks.2.conv1.1"]),
    "deeplabv3_mobilenet_v3_large": (ODD, 4, "f", SQUEEZE, {
        "backbone.0.0.weight": (),
        "backbone.4.block.1.0.weight": (8,),
        "backbone.4.block.2.fc1.weight": (),
        "backbone.13.block.1.0.weight": (32,),
        "backbone.15.block.3.0.weight": (8, 32),
        "backbone.16.0.weight": (32, 16),
        "classifier.0.convs.1.0.weight": (32, 128),
        "classifier.0.convs.4.1.weight": (32, 64),
        "classifier.0.project.0.weight": (32, 64),
        "classifier.1.weight": (32, 64),
        "classifier.4.weight": (),
        "classifier.4.bias": (),
        "aux_classifier.0.weight": (2, 8),
        "aux_classifier.4.weight": (),
    }, ["backbone.0.1", "classifier.0.convs.4.2", "aux_classifier.1"]),
    "unet_convnext_tiny": (EVEN, 2, "g", SCALE, {
        "encoder.features.0.0.weight": (4,),
        "encoder.features.1.0.layer_scale": (),
        "encoder.features.3.1.block.0.weight": (8,),
        "encoder.features.3.2.block.2.weight": (),
        "encoder.features.5.4.block.3.weight": (64, 32),
        "encoder.features.6.1.weight": (64, 32),
        "encoder.features.7.2.block.5.bias": (8,),
        "decoder.blocks.0.conv1.0.weight": (32, 64),
        "decoder.blocks.3.conv1.0.weight": (4, 8),
        "segmentation_head.0.weight": (),
    }, ["decoder.blocks.2.conv1.1"]),
    "unetplusplus_resnet34": (EVEN, 2, "h", BASIC, {"segmentation_head.0.weight": ()}, ["encoder.bn1"]),
    "deeplabv3plus_resnet34": (EVEN, 4, "i", BASIC, {"segmentation_head.0.weight": (1, 8)}, ["encoder.bn1"]),
    "pspnet_resnet34": (EVEN, 2, "j", BASIC, {"segmentation_head.0.weight": (1, 8)}, ["encoder.bn1"]),
    "fpn_resnet34": (EVEN, 2, "k", BASIC, {"segmentation_head.0.weight": ()}, ["encoder.bn1"]),
    "upernet_resnet34": (EVEN, 4, "m", BASIC, {"segmentation_head.0.weight": (), "decoder.feature_norms.1.weight": ()}, ["encoder.bn1"]),
    "lraspp_mobilenet_v3_large": (EVEN, 4, "l", SQUEEZE, {"classifier.low_classifier.weight": ()}, ["backbone.0.1"]),
}

# Largest difference of the program's logits, as a share of their range.
LIMIT = 1e-3


class DeepLab(nn.Module):
    """The first DeepLab (large field of view) or the second one (as on ResNet), on a backbone of output stride 8."""

    def __init__(self, name, classes):
        super().__init__()
        decoder, backbone = name.split("_", 1)
        if backbone.startswith("vgg"):
            self.backbone = vgg.__dict__[backbone](weights=None).features
            pools = [index for index, layer in enumerate(self.backbone) if isinstance(layer, nn.MaxPool2d)]
            for index in pools[3:]:
                self.backbone[index] = nn.MaxPool2d(3, stride=1, padding=1)
            for layer in self.backbone[pools[3]:]:
                if isinstance(layer, nn.Conv2d):
                    layer.dilation = layer.padding = (2, 2)
            channels = 512
        else:
            network = resnet.__dict__[backbone](weights=None, replace_stride_with_dilation=[False, True, True])
            channels = network.fc.in_features
            self.backbone = _utils.IntermediateLayerGetter(network, {"layer4": "out"})
        if decoder == "deeplabv1":
            self.fc6 = nn.Conv2d(channels, 1024, 3, padding=12, dilation=12)
            self.fc7 = nn.Conv2d(1024, 1024, 1)
            self.fc8 = nn.Conv2d(1024, classes, 1)
            self.dropout = nn.Dropout(0.5)
        else:
            self.aspp = nn.ModuleDict({f"c{i}": nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for i, rate in enumerate([6, 12, 18, 24])})

    def forward(self, x):
        out = self.backbone(x)
        out = out if isinstance(out, torch.Tensor) else out["out"]
        if hasattr(self, "aspp"):
            out = sum(branch(out) for branch in self.aspp.values())
        else:
            for layer in [self.fc6, self.fc7]:
                out = self.dropout(layer(out).relu())
            out = self.fc8(out)
        return nn.functional.interpolate(out, size=x.shape[-2:], mode="bilinear", align_corners=False)


def create(name, classes, **arguments):
    """The network, with its auxiliary head where there is one."""
    if name in PAPERS:
        return DeepLab(name, classes).eval()
    if name in TORCHVISION:
        aux = {} if name.startswith("lraspp") else dict(aux_loss=True)
        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=classes, **aux, **arguments).eval()
    decoder, encoder = name.split("_", 1)
    return DECODERS[decoder](OTHERS.get(encoder, encoder), encoder_weights=None, classes=classes, **arguments).eval()


def ours(name, model):
    """What torchvision calls the tensors of an encoder that is not its own."""
    encoder = name.split("_", 1)[1]
    if name in TORCHVISION or encoder not in OTHERS:
        return {}
    prefix = "encoder.model." if OTHERS[encoder].startswith("tu-") else "encoder."
    state = {k.removeprefix(prefix): v for k, v in tensors(model).items() if k.startswith(prefix)}
    return {f"{prefix}{k}": f"encoder.{v}" for k, v in translated(encoder, state).items()}


def run(model, x):
    out = model(x)
    return dict(out) if isinstance(out, dict) else {"out": out}


def sample(value):
    value = value.detach().flatten()
    return value[::STEP if len(value) >= STEP else 1].clone()


@torch.no_grad()
def evaluate(model, sizes):
    """All logits for the images of the sizes."""
    dtype = next(model.parameters()).dtype
    return {f"{h}x{w}.{key}": value for h, w in sizes for key, value in run(model, image(0, h, w)[None].to(dtype)).items()}


def train(name, model, size, count, gradients, norms):
    """One training step without the change of the weights."""
    dtype = next(model.parameters()).dtype
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    model.train().zero_grad()
    results = run(model, torch.stack([image(i, *size) for i in range(count)]).to(dtype))
    loss = 0.0
    for key, value in results.items():
        weight = torch.from_numpy(noise(key, value.numel())).to(dtype).reshape(value.shape)
        loss = loss + (1.0 if key == "out" else 0.5) * (value * weight).mean()
    loss.backward()
    names = ours(name, model)
    found = dict(sorted((names.get(k, k), p.grad) for k, p in model.named_parameters() if p.grad is not None))
    state = {names.get(k, k): v for k, v in model.state_dict().items()}
    out = {"loss": loss.reshape(1), **{key: sample(value) for key, value in results.items()}}
    out["norms"] = torch.stack([gradient.double().norm() for gradient in found.values()]).to(dtype)
    out.update({f"grad.{key}": found[key][tuple(slice(None, None, step) for step in steps)] for key, steps in gradients.items()})
    for norm in norms:
        out.update({f"grad.{norm}.{kind}": found[f"{norm}.{kind}"] for kind in ["weight", "bias"]})
        out.update({f"after.{norm}.{kind}": state[f"{norm}.{kind}"] for kind in ["running_mean", "running_var"]})
    return {key: value.detach().clone() for key, value in out.items()}


def check(make, compute, expected, trials=4, amount=1e-5):
    """Computes in 64 bits, and moves every weight by up to `amount` of itself: the largest changes, as shares of the range or of the most."""
    generator = torch.Generator().manual_seed(0)
    worst = [{}, {}]
    for trial in range(trials + 1):
        model = make()
        with torch.no_grad():
            for value in [*model.parameters(), *model.buffers()] if trial else []:
                if value.is_floating_point():
                    value *= 1 + amount * (2 * torch.rand(value.shape, generator=generator) - 1)
        got = compute(model if trial else model.double())
        for key, value in expected.items():
            part = key.split(".")[0] if key.startswith(("grad", "after")) else key
            scale = max((value.max() - value.min()).item() if "out" in key or "aux" in key else value.abs().max().item(), 1e-12)
            w = worst[trial > 0]
            change = (got[key].double() - value.double()).abs()
            change = (change / value.abs().clamp(min=1e-4 * scale)).max() if key == "norms" else change.max() / scale
            w[part] = max(w.get(part, 0.0), change.item())
    for text, w in zip(["in 64 bits", f"weights moved by {amount}"], worst):
        print(f"    {text}:", {k: float(f"{v:.1g}") for k, v in w.items()}, flush=True)


def fixtures(checked):
    stored = {}
    for name, (sizes, factors, arguments) in CASES.items():
        def make():
            model = create(name, 5, **arguments)
            return fill(model, ours(name, model), "", factors)

        got = evaluate(make(), sizes)
        for key, value in got.items():
            stored[f"{name}.{key}"] = sample(value)
            flat = value[0].flatten(1)
            print(f"{name}.{key}: {value.min():.3g} to {value.max():.3g}, deviations {[float(f'{s:.2g}') for s in flat.std(1, correction=0)]}", flush=True)
        if checked:
            check(make, lambda model: evaluate(model, sizes), got)
    for name, (size, count, salt, factors, gradients, norms) in TRAINING.items():
        def make():
            model = create(name, 5)
            return fill(model, ours(name, model), salt, factors)

        got = train(name, make(), size, count, gradients, norms)
        stored.update({f"train.{name}.{key}": value.contiguous() for key, value in got.items()})
        print(f"train.{name}: loss {got['loss'].item():.6g}, {len(got['norms'])} gradients with norms {got['norms'].min():.2g} to {got['norms'].max():.2g}")
        if checked:
            check(make, lambda model: train(name, model, size, count, gradients, norms), got, amount=3e-7)
    path = os.path.join(OUT, "segmentation.safetensors")
    os.makedirs(OUT, exist_ok=True)
    save_file(stored, path, {"step": str(STEP)})
    print(len(stored), "tensors,", os.path.getsize(path), "bytes")


def settle(module, inputs):
    """Running statistics near those of the images, where the norm is used for the first time."""
    module.hook.remove()
    x = inputs[0]
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    if x.numel() // x.shape[1] <= 16:
        var = var.clamp(min=var.mean() / 10)  # too few values: some variances are tiny by chance
    module.running_mean.copy_(mean + 0.1 * var.sqrt() * torch.randn(len(mean)))
    module.running_var.copy_((var * torch.empty(len(var)).uniform_(0.6, 1.6)).clamp(min=1e-6))


def fit(module, inputs, output):
    """At the first use of `module`, rescales it: every channel gets the mean 0 and the standard deviation 2."""
    module.hook.remove()
    scale = 2 / output.std((0, 2, 3)).clamp(min=1e-6)
    module.weight.mul_(scale.reshape(-1, 1, 1, 1))
    module.bias.copy_((module.bias - output.mean((0, 2, 3))) * scale)
    return module(inputs[0])


def picture(height, width, generator):
    """Clouds with noise."""
    clouds = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((0.8 * np.array(clouds) + generator.integers(0, 52, (height, width, 3))).astype(np.uint8))


@torch.no_grad()
def build(name, classes, seed):
    """A network with random weights and norms, whose logits have a spread."""
    torch.manual_seed(seed)
    model = create(name, classes)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.hook = module.register_forward_pre_hook(settle)
        elif isinstance(module, nn.Conv2d):
            if module.weight.shape[0] > 21:
                module.weight[torch.rand(len(module.weight)) < 0.1] *= 0.01  # small variances, where eps counts
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.2)
    for module in model.modules():  # the end of a residual branch: without this, rounding errors grow from block to block
        if isinstance(module, resnet.BasicBlock):
            module.bn2.weight *= 0.2
        elif isinstance(module, resnet.Bottleneck):
            module.bn3.weight *= 0.2
        elif isinstance(module, mobilenetv2.InvertedResidual):
            module.conv[-1].weight *= 0.2
        elif isinstance(module, mobilenetv3.InvertedResidual):
            module.block[-1][1].weight *= 0.2
    if name.startswith("lraspp"):
        heads = [model.classifier.low_classifier, model.classifier.high_classifier]
    elif name in TORCHVISION:
        heads = [model.classifier[-1], model.aux_classifier[-1]]
    elif name in PAPERS:
        heads = [model.fc8] if name.startswith("deeplabv1") else model.aspp.values()
    else:
        heads = [model.segmentation_head[0]]
    for head in heads:
        head.hook = head.register_forward_hook(fit)
    generator = np.random.default_rng(seed)
    preset = SemanticSegmentation(resize_size=None)
    model(torch.stack([preset(picture(64, 96, generator)) for _ in range(4)]))
    return model


def write(model, kind, folder):
    """`aux`: with the auxiliary head; `old`: without the counts of batches; `legacy`: pickle of before PyTorch 1.6; `safetensors`."""
    state = model.state_dict()
    if "aux" not in kind:
        state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    if "old" in kind:
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if "safetensors" in kind:
        path = os.path.join(folder, "weights.safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        path = os.path.join(folder, "weights.pth")
        torch.save(state, path, _use_new_zipfile_serialization="legacy" not in kind)
    return path


def cases(name, index, stride):
    """Kinds of files, each with images (height, width) and the size to which they are resized, 0 for none."""
    if name in TORCHVISION:
        wide = (24, 616) if "mobilenet" in name else (20, 330)
        aux = "" if name.startswith("lraspp") else "aux "
        yield aux + "pth", [((37, 53), 0), ((1, 1), 0), ((37, 53), 44), ((90, 61), 40)]
        yield "safetensors", [(wide if name.startswith("deeplab") else (65, 49), 0)]
        yield aux + "old legacy", [((40, 1), 0)]
        return
    if name in PAPERS:
        sizes = [(37, 53), (20, 330)]
    elif "tf_efficientnet_b1" in name:
        sizes = [(48, 80), (112, 16)]
    elif (encoder := name.split("_", 1)[1]) in OTHERS or encoder.startswith(("tu-", "timm-")):
        sizes = [(64, 96), (32, 160)]
    elif name.startswith("unet_"):
        sizes = [(37, 53), (32, 65) if "vgg" in name else (1, 1)]
    elif name.startswith("deeplab"):
        sizes = [(48, 80), (16, 624)]
    else:
        sizes = [(3 * stride, 5 * stride) if stride < 32 else (64, 96), (2 * stride, stride)]
    yield ["pth", "safetensors", "old legacy"][index % 3], [(size, 0) for size in sizes]


def given(path, size):
    """What torchvision's preset makes of the picture, by PIL."""
    return SemanticSegmentation(resize_size=size or None)(Image.open(path).convert("RGB"))[None]


def segmented(arguments, name, weights, classes, path, size, folder):
    logits, output = os.path.join(folder, "logits.safetensors"), os.path.join(folder, "output.png")
    for old in [logits, output]:
        if os.path.exists(old):
            os.remove(old)
    command = [
        arguments.program, "--arch", name, "--weights", weights, "--num-classes", str(classes), "--image", path, "--size", str(size),
        "--logits", logits, "--output", output, *(["--device", arguments.device] if arguments.device else [])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode:
        raise RuntimeError(f"status {run.returncode}: {run.stderr.strip()[-300:]}")
    picture = Image.open(output)
    picture.load()
    if not size and picture.size != Image.open(path).size:
        raise RuntimeError(f"the picture has the size {picture.size}")
    return load_file(logits)["out"]


def compare(arguments, folder):
    print(f"{'network':30}{'classes':>8} {'file':16}{'image':>9}{'size':>5}{'range':>8}{'differs':>9}{'s':>7}")
    failed = []
    count = 0
    for index, name in enumerate(NAMES):
        if arguments.arch and name not in arguments.arch:
            continue
        classes = [21, 5, 2][index % 3]
        model = build(name, classes, index + 100)
        stride = model.encoder.output_stride if hasattr(model, "encoder") else None
        generator = np.random.default_rng(index)
        for kind, images in cases(name, index, stride):
            weights = write(model, kind, folder)
            for (height, width), size in images:
                path = os.path.join(folder, "image.png")
                picture(height, width, generator).save(path)
                start, error, numbers = time.time(), "", ""
                try:
                    x = given(path, size)
                    with torch.no_grad():
                        wanted = run(model, x)["out"]
                        if arguments.floor:
                            got = run(model.double(), x.double())["out"]
                            model.float()
                        else:
                            start = time.time()
                            got = segmented(arguments, name, weights, classes, path, size, folder)
                    seconds = time.time() - start
                    if got.shape != wanted.shape:
                        raise RuntimeError(f"logits {tuple(got.shape)} and not {tuple(wanted.shape)}")
                    spread = (wanted.max() - wanted.min()).item()
                    differs = (got - wanted).abs().max().item() / spread
                    numbers = f"{spread:8.3g}{differs:9.1e}{seconds:7.1f}"
                    error = "" if differs <= LIMIT else "  FAILED"
                except Exception as problem:
                    error = f"  FAILED {type(problem).__name__} {problem}"
                count += 1
                failed += [name] if error else []
                print(f"{name:30}{classes:8} {kind:16}{f'{height}x{width}':>9}{size or '':>5}{numbers}{error}", flush=True)
            os.remove(weights)
    print(f"{count} cases, {len(failed)} failed" + (f": {', '.join(sorted(set(failed)))}" if failed else ""))
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--program", help="the program")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--arch", nargs="+", choices=NAMES, metavar="NAME", help="instead of all networks")
    parser.add_argument("--keep", help="folder for the files (a temporary one otherwise)")
    parser.add_argument("--device", help="for the program")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.program and not arguments.floor:
        return fixtures(arguments.check)
    if arguments.keep:
        os.makedirs(arguments.keep, exist_ok=True)
        sys.exit(bool(compare(arguments, arguments.keep)))
    with tempfile.TemporaryDirectory() as folder:
        failed = compare(arguments, folder)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
