"""Transforms of volumes by batchgeneratorsv2, nnU-Net's own, and SciPy, for the tests of `segkiln_data::volumes`.

    pip install batchgeneratorsv2 numpy scipy torch
    python tests/parity/volume_transforms.py

writes crates/segkiln-data/tests/fixtures/volumes/transforms.json.
"""

import json
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform, create_affine_matrix_3d
from scipy import ndimage

SIZE = (7, 9, 8)
rng = np.random.default_rng(11)
values = rng.normal(size=SIZE).astype(np.float32)
labels = rng.integers(0, 3, SIZE)
only = torch.tensor([0])


def numbers(array):
    return [float(f"{x:.8g}") for x in np.asarray(array, float).ravel()]


def changed(transform, **params):
    return numbers(transform._apply_to_image(torch.from_numpy(values.copy())[None], **params)[0])


def gamma(power, inverted):
    params = dict(apply_to_channel=only, retain_stats=torch.tensor([True]), invert_image=torch.tensor([inverted]),
                  gamma=torch.tensor([power]))
    return [power, changed(GammaTransform(1, 0, False, 1, 1), **params)]


def turned(angles, scale, spacing, start, patch):
    """About the patch's middle, in millimeters: SciPy's linear interpolation with zeros beyond the ends."""
    spacing, steps = np.asarray(spacing), np.indices(patch).reshape(3, -1).astype(float)
    middle = (np.asarray(patch)[:, None] - 1) / 2
    matrix = create_affine_matrix_3d(angles, [1 / scale] * 3)
    place = np.asarray(start)[:, None] + middle + (matrix @ ((steps - middle) * spacing[:, None])) / spacing[:, None]
    found = ndimage.map_coordinates(values.astype(float), place, order=1, mode="grid-constant")
    nearest = np.floor(place + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < np.asarray(SIZE)[:, None])).all(0)
    of = np.where(inside, labels[tuple(np.clip(nearest, 0, np.asarray(SIZE)[:, None] - 1))], 0)
    return found, of


def entry(angles, scale, spacing, start, patch, found, of):
    return dict(angles=angles, scale=scale, spacing=spacing, start=start, patch=patch, values=numbers(found),
                labels=[int(label) for label in of.ravel()])


def by_batchgenerators(angles, scale):
    """The whole volume, whose voxels are taken for cubes."""
    transform = SpatialTransform(SIZE, 0, False, p_rotation=1, rotation=lambda image, dim: angles[dim], p_scaling=1,
                                 scaling=lambda image, dim: 1 / scale, p_synchronize_scaling_across_axes=1, mode_seg="nearest")
    image = torch.from_numpy(values.copy())[None]
    params = transform.get_parameters(image=image)
    segmentation = torch.from_numpy(labels[None].astype(np.int16))
    found = transform._apply_to_image(image, **params)[0].numpy()
    of = transform._apply_to_segmentation(segmentation, **params)[0].numpy()
    mine, my_labels = turned(angles, scale, [1, 1, 1], [0, 0, 0], SIZE)
    assert np.abs(found.ravel() - mine).max() < 1e-5 and (of.ravel() == my_labels).all()
    return entry(angles, scale, [1, 1, 1], [0, 0, 0], list(SIZE), found, of)


def by_scipy(*args):
    return entry(*args, *turned(*args))


sigmas, scales = [0.5, 0.8, 1.0], [0.7, 0.5, 0.9]
expected = {
    "size": SIZE,
    "values": numbers(values),
    "labels": labels.ravel().tolist(),
    "brightness": [0.8, changed(MultiplicativeBrightnessTransform(1, False), apply_to_channel=only, multipliers=torch.tensor([0.8]))],
    "contrast": [1.2, changed(ContrastTransform(1, True, False), apply_to_channel=only, multipliers=torch.tensor([1.2]))],
    "gamma": gamma(0.75, False),
    "gamma_inverted": gamma(1.4, True),
    "blur": [sigmas, changed(GaussianBlurTransform(1), apply_to_channel=torch.tensor([True]), sigmas=[sigmas])],
    "low_resolution": [scales, changed(SimulateLowResolutionTransform(1, False, False, None), apply_to_channel=only,
                                       scales=torch.tensor([scales]))],
    "turns": [
        by_batchgenerators([0.3, -0.4, 0.2], 1.2),
        by_batchgenerators([-0.5, 0.1, 0.45], 0.8),
        by_scipy([0.3, -0.4, 0.2], 0.9, [3.0, 1.0, 1.5], [2, 1, 3], [4, 6, 5]),
        by_scipy([2.5, 0.0, 0.0], 1.3, [5.0, 0.7, 0.7], [0, 0, 2], [9, 5, 6]),
    ],
}
path = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/volumes/transforms.json"
path.write_text(json.dumps(expected) + "\n")
