"""SegFormer of Hugging Face's transformers: fixture, and files for a comparison with `segment`.

    $PYTHON tests/parity/segformer.py            # needs torch, transformers and safetensors

writes crates/segkiln-models/tests/fixtures/segformer.safetensors. Weights and images by the formulas of rcnn.py, by the names that the files
have (`save_pretrained`; in memory transformers 5 has others). `NAME.HEIGHTxWIDTH.out` holds every STEP-th logit of the flattened
[1, 5, HEIGHT, WIDTH], enlarged bilinearly to the image's size as transformers' loss does it; `NAME.HEIGHTxWIDTH.attention.N` every STEP-th
value of the attention of block N. `train.NAME.` as in segmentation.py, without dropout.

    cargo build --example segment
    $PYTHON tests/parity/segformer.py --program target/debug/examples/segment [--arch NAME...]

runs the program and transformers on random weights and images, as files of both kinds of names, and compares the logits.
"""
import argparse
import os
import subprocess
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from torchvision.transforms._presets import SemanticSegmentation

from rcnn import OUT, formula, image, noise

STEP = 61
LIMIT = 1e-3
WIDE = dict(hidden_sizes=[64, 128, 320, 512])
VARIANTS = {
    "segformer_b0": {},
    "segformer_b1": WIDE,
    "segformer_b2": dict(WIDE, depths=[3, 4, 6, 3], decoder_hidden_size=768),
    "segformer_b3": dict(WIDE, depths=[3, 4, 18, 3], decoder_hidden_size=768),
    "segformer_b4": dict(WIDE, depths=[3, 8, 27, 3], decoder_hidden_size=768),
    "segformer_b5": dict(WIDE, depths=[3, 6, 40, 3], decoder_hidden_size=768),
}
SIZES = [(65, 49), (64, 96)]


def create(name, classes, **arguments):
    config = transformers.SegformerConfig(num_labels=classes, **VARIANTS[name], **arguments)
    return transformers.SegformerForSemanticSegmentation._from_config(config, attn_implementation="eager").eval()


def filled(name, salt, **arguments):
    """The network with the formula's values, and the files' names of its tensors."""
    with tempfile.TemporaryDirectory() as folder:
        create(name, 5, **arguments).save_pretrained(folder)
        path = os.path.join(folder, "model.safetensors")
        values = {k: formula(k, v.shape, salt) for k, v in load_file(path).items()}
        save_file(values, path, {"format": "pt"})
        model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, attn_implementation="eager").eval()
    by_value = {v.numpy().tobytes(): k for k, v in values.items()}
    return model, {k: by_value[v.numpy().tobytes()] for k, v in model.state_dict().items()}


def run(model, x, **arguments):
    out = model(x, **arguments)
    return interpolate(out.logits, size=x.shape[-2:], mode="bilinear", align_corners=False), out.get("attentions")


def sample(value):
    return value.detach().flatten()[::STEP].clone()


def fixtures():
    stored = {}
    model, _ = filled("segformer_b0", "")
    for h, w in SIZES:
        with torch.no_grad():
            out, attention = run(model, image(0, h, w)[None], output_attentions=True)
        stored[f"segformer_b0.{h}x{w}.out"] = sample(out)
        for index, weights in enumerate(attention):
            stored[f"segformer_b0.{h}x{w}.attention.{index}"] = sample(weights)
        print(f"segformer_b0 {h}x{w}: {out.min():.3g} to {out.max():.3g}, deviations {[float(f'{s:.2g}') for s in out[0].flatten(1).std(1)]}")
    model, names = filled("segformer_b0", "n", drop_path_rate=0.0, classifier_dropout_prob=0.0)
    model.train()
    out, _ = run(model, torch.stack([image(i, 64, 96) for i in range(2)]))
    weight = torch.from_numpy(noise("out", out.numel())).float().reshape(out.shape)
    (out * weight).mean().backward()
    found = dict(sorted((names[k], p.grad) for k, p in model.named_parameters() if p.grad is not None))
    state = {names[k]: v for k, v in model.state_dict().items()}
    stored["train.segformer_b0.out"] = sample(out)
    stored["train.segformer_b0.norms"] = torch.stack([gradient.double().norm() for gradient in found.values()]).float()
    for key, steps in {
        "segformer.encoder.patch_embeddings.0.proj.weight": (4,), "segformer.encoder.block.0.1.attention.self.sr.weight": (8, 8),
        "segformer.encoder.block.2.0.attention.self.query.weight": (16, 8), "segformer.encoder.block.3.1.mlp.dwconv.dwconv.weight": (8,),
        "decode_head.linear_c.2.proj.weight": (16, 8), "decode_head.classifier.weight": (),
    }.items():
        stored[f"train.segformer_b0.grad.{key}"] = found[key][tuple(slice(None, None, step) for step in steps)]
    norm = "decode_head.batch_norm"
    for kind in ["weight", "bias"]:
        stored[f"train.segformer_b0.grad.{norm}.{kind}"] = found[f"{norm}.{kind}"]
    for kind in ["running_mean", "running_var"]:
        stored[f"train.segformer_b0.after.{norm}.{kind}"] = state[f"{norm}.{kind}"]
    path = os.path.join(OUT, "segformer.safetensors")
    save_file({k: v.detach().contiguous() for k, v in stored.items()}, path, {"step": str(STEP)})
    print(len(stored), "tensors,", os.path.getsize(path), "bytes")


@torch.no_grad()
def compare(name, program, folder, seed):
    """Random weights whose logits have a spread, a picture, and files of both kinds of names."""
    torch.manual_seed(seed)
    model = create(name, 7)
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.weight.mul_(0.8 / module.weight.std() / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
    generator = np.random.default_rng(seed)
    picture = os.path.join(folder, "image.png")
    clouds = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((101, 67), Image.Resampling.BICUBIC)
    clouds.save(picture)
    x = SemanticSegmentation(resize_size=None)(clouds)[None]
    expected, _ = run(model, x)
    model.save_pretrained(folder)
    memory = os.path.join(folder, "pytorch_model.bin")
    torch.save(model.state_dict(), memory)
    good = True
    for weights in [os.path.join(folder, "model.safetensors"), memory]:
        logits = os.path.join(folder, "logits.safetensors")
        command = [program, "--arch", name, "--weights", weights, "--num-classes", "7", "--image", picture, "--size", "0", "--logits", logits]
        run_ = subprocess.run(command, capture_output=True, text=True)
        if run_.returncode:
            print(f"{name} {os.path.basename(weights)}: {run_.stderr.strip()}")
            return False
        got = load_file(logits)["out"]
        difference = ((got - expected).abs().max() / (expected.max() - expected.min())).item()
        good &= difference <= LIMIT
        print(f"{name} {os.path.basename(weights)}: range {expected.min():.3g} to {expected.max():.3g}, difference {difference:.1e} of it", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program")
    parser.add_argument("--arch", nargs="*", default=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.program:
        return fixtures()
    results = []
    for seed, name in enumerate(arguments.arch):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(name, arguments.program, folder, seed))
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
