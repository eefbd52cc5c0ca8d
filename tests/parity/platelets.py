"""A published 3D U-Net of platelets, by PyTorch, for the ignored test of crates/segkiln-models/tests/platelets.

    pip download --no-deps --no-binary :all: platelet-unet-watershed==0.0.3    # BSD-3; its weights are not in this repository
    tar xzf platelet_unet_watershed-0.0.3.tar.gz                               # or platelet-unet-watershed-0.0.3.tar.gz
    python tests/parity/platelets.py platelet-unet-watershed-0.0.3 FOLDER      # needs numpy, safetensors, scipy and torch
    SEGKILN_PLATELETS=FOLDER cargo test -p segkiln-models --test volumes -- --ignored

writes the weights, volumes that look like platelets, and the network's maps of them.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import ndimage

package, out = Path(sys.argv[1]) / "plateseg", Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
spec = importlib.util.spec_from_file_location("unet", package / "unet.py")
unet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unet)
network = unet.UNet(in_channels=1, out_channels=5).eval()
weights = package / "data/unet-210913-zyxmc.pt"
network.load_state_dict(torch.load(weights, map_location="cpu"))
shutil.copy(weights, out / "weights.pt")


def platelets(depth, height, width, count, seed):
    """Bright ellipsoids, flat in depth as the microscope's slices are far apart, blurred and with noise, from 0 to 1."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((depth, height, width))
    volume = np.zeros((depth, height, width))
    for _ in range(count):
        at, radius = rng.uniform(0, [depth, height, width]), rng.uniform(4, 8)
        inside = ((z - at[0]) * 3) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 < radius ** 2
        volume[inside] = rng.uniform(0.5, 1)
    volume = ndimage.gaussian_filter(volume, [0.5, 1, 1]) + rng.normal(0, 0.03, volume.shape)
    return torch.from_numpy(((volume - volume.min()) / np.ptp(volume)).astype(np.float32))[None, None]


tensors = {}
with torch.no_grad():
    for name, volume in {"small": platelets(10, 64, 64, 12, 1), "wide": platelets(4, 48, 112, 14, 2)}.items():
        maps = network(volume)
        print(name, [f"{float(m.min()):.3f} to {float(m.max()):.3f}" for m in maps[0]])
        tensors |= {f"{name}.volume": volume, f"{name}.maps": maps.contiguous()}
save_file(tensors, out / "expected.safetensors")
