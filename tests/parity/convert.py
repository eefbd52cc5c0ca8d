"""Weights that `convert` has written, loaded by torchvision and segmentation_models_pytorch.

    cargo build --example convert
    $PYTHON tests/parity/convert.py target/debug/examples/convert [--arch NAME...]

Random weights of every network go through our own format (.bpk) into a .safetensors, which the network of the library must take without a
missing or a spare tensor, and give back to the bit; and through weights of 8 bits, whose largest error is shown as a share of the largest
weight of each output. Ends with status 1 where one fails.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from torchvision.models import detection

from segmentation import NAMES, OTHERS, create

DETECTORS = [
    "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2",
]


def convert(program, name, classes, source, target, *flags):
    command = [program, "--arch", name, "--num-classes", str(classes), "--weights", source, "--output", target, *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode:
        raise RuntimeError(f"status {run.returncode}: {run.stderr.strip()[-300:]}")


def filled(model):
    """Random values in all that a norm has too."""
    for module in model.modules():
        transposed = isinstance(module, torch.nn.ConvTranspose2d)
        for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if value.is_floating_point():
                value.data.uniform_(0.1, 1.0)
                if value.ndim > 1:  # outputs of very different sizes, each of which has its own scale
                    by = value.data.transpose(0, 1) if transposed else value.data
                    by.mul_(10.0 ** -(torch.arange(len(by)) % 4).reshape(-1, *[1] * (by.ndim - 1)))
    return model.eval()


def check(program, name, folder):
    classes = 91 if name in DETECTORS else 21
    make = lambda: getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes) if name in DETECTORS else create(name, classes)
    model = filled(make())
    source, ours, small, target = (os.path.join(folder, file) for file in ["source.pth", "ours.bpk", "small.bpk", "target.safetensors"])
    torch.save(model.state_dict(), source)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}

    convert(program, name, classes, source, ours)
    convert(program, name, classes, ours, target)
    other = make()
    found = load_file(target)
    other.load_state_dict(dict(found))
    state = other.state_dict()
    changed = [key for key, value in wanted.items() if not torch.equal(state[key], value)]
    if changed:
        raise RuntimeError(f"changed: {changed[:3]}")

    convert(program, name, classes, source, small, "--quantize")
    convert(program, name, classes, small, target)
    worst = 0.0
    for key, value in load_file(target).items():
        error = (value - wanted[key]).abs()
        if value.ndim in (2, 4):
            size = wanted[key].abs()
            if "conv5_mask" in key:  # transposed
                error, size = error.transpose(0, 1), size.transpose(0, 1)
            worst = max(worst, (error.flatten(1) / size.flatten(1).amax(1, keepdim=True)).max().item())
        elif error.max() > 0:
            raise RuntimeError(f"{key} is quantised")
    if not 0 < worst < 0.51 / 127:
        raise RuntimeError(f"8 bits: {worst}")
    return len(found), os.path.getsize(small) / os.path.getsize(ours), worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="the program")
    parser.add_argument("--arch", nargs="*", default=[], help="of these networks alone")
    arguments = parser.parse_args()
    failed = []
    # Encoders that torchvision names otherwise are written with its names.
    names = [name for name in NAMES if name.split("_", 1)[1] not in OTHERS] + DETECTORS
    for name in arguments.arch or names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tensors, size, worst = check(arguments.program, name, folder)
                print(f"{name:40}{tensors:5} tensors back to the bit; 8 bits: {size:.3f} of the size, error {worst:.1e}", flush=True)
            except Exception as problem:
                failed.append(name)
                print(f"{name:40}FAILED {type(problem).__name__} {problem}", flush=True)
    print(f"{len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
