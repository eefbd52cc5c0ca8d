"""Stain vectors by NumPy, after Macenko et al. (2009), for the test of `segkiln_data::transforms::StainJitter`.

    pip install numpy
    python tests/parity/stain.py

prints them for the slide that the test makes by the same formula.
"""

import numpy as np

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def slide():
    y, x = np.mgrid[:30, :40]
    amounts = np.stack([(7 * x + 3 * y) % 50 / 25, (5 * x + 11 * y) % 40 / 30], axis=-1)
    return np.rint(255 * np.exp(-amounts @ STAINS)) / 255


def stains(image):
    density = -np.log(np.clip(image.astype(np.float32).astype(np.float64), 0.5 / 255, 1)).reshape(-1, 3)
    density = density[(density >= 0.15).all(axis=1)]
    _, axes = np.linalg.eigh(np.cov(density.T))
    axes = axes[:, [2, 1]]
    axes *= np.where(axes.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(density @ axes[:, 1], density @ axes[:, 0])
    ends = np.percentile(angles, [1, 99])
    colors = (axes @ np.stack([np.cos(ends), np.sin(ends)])).T
    return colors[np.argsort(-colors[:, 0])]


print(repr(stains(slide()).tolist()))
