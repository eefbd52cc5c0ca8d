"""Objects of class maps by scikit-image, SciPy and rasterio, for the tests of `segkiln_data::instances`.

    pip install imagecodecs numpy rasterio scikit-image scipy tifffile
    python tests/parity/instances.py

writes crates/segkiln-data/tests/fixtures/instances.json, and instances/*.tif of a scene of 300 x 300 pixels. With `--scene FOLDER SIDE` it
writes a scene of another size, which a test takes instead:

    python tests/parity/instances.py --scene /tmp/scene 4096
    SEGKILN_INSTANCES=/tmp/scene cargo test -p segkiln-data --lib objects_of_a_scene

The maps are made by formulas that the tests repeat:

- noise: 53 x 37, class (5 y + 3 x + x y // 3 + y y // 7) mod 3;
- discs: 83 x 61, class 1 within 4 + k mod 5 of (37 k mod 83, 23 k mod 61) for k from 0 to 29;
- specks: discs, changed where (5 y + 3 x + x y // 3 + y y // 7) mod 11 is 0;
- the picture: band b is (7 y + 3 x + 50 b + x y // 11) mod 251, over 255.
"""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio.features
import tifffile
from scipy import ndimage
from skimage import feature, measure, morphology, segmentation

FIXTURE = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/instances.json"


def noise():
    y, x = np.mgrid[:37, :53]
    return (5 * y + 3 * x + x * y // 3 + y * y // 7) % 3


def discs():
    y, x = np.mgrid[:61, :83]
    map = np.zeros((61, 83), int)
    for k in range(30):
        map[(x - 37 * k % 83) ** 2 + (y - 23 * k % 61) ** 2 <= (4 + k % 5) ** 2] = 1
    return map


def specks():
    y, x = np.mgrid[:61, :83]
    return (discs() > 0) != ((5 * y + 3 * x + x * y // 3 + y * y // 7) % 11 == 0)


def scene(side):
    """Blobs of two classes, many of which touch, by a filtered noise."""
    noise = np.random.default_rng(5).standard_normal((2, side, side))
    one, two = (ndimage.gaussian_filter(n, 4) for n in noise)
    return np.where(one > 0.04, 1, np.where(two > 0.06, 2, 0)).astype(np.uint8)


def write_scene(folder, side):
    """A map and its objects, in tiles: connected pixels of one class, and these split by a watershed."""
    folder.mkdir(parents=True, exist_ok=True)
    map = scene(side)
    components = measure.label(map, connectivity=2)
    # Classes are split each on their own, as pixels of another class are outside.
    parts = [split(map == c, 2, 7) for c in (1, 2)]
    splits = np.where(parts[1] > 0, parts[1] + parts[0].max(), parts[0])
    files = {"map": map, "components": components.astype(np.uint32), "watershed": splits.astype(np.uint32)}
    for name, values in files.items():
        tifffile.imwrite(folder / f"{name}.tif", values, tile=(256, 256), compression="zlib", predictor=True, metadata=None, software=False)
    print(side, int(components.max()), "components,", len(np.unique(splits)) - 1, "parts")


def cleaned():
    map = specks()
    found = {}
    for radius in (1, 3):
        found[f"opening_{radius}"] = morphology.opening(map, morphology.disk(radius))
        found[f"closing_{radius}"] = morphology.closing(map, morphology.disk(radius))
    labels = measure.label(map, connectivity=2)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found["fill_holes"] = ndimage.binary_fill_holes(map)
    found["min_area"] = morphology.remove_small_objects(map, max_size=11, connectivity=2)
    found["largest"] = labels == sizes.argmax()
    return found


def picture(map):
    y, x, b = np.meshgrid(*(np.arange(n) for n in (*map.shape, 3)), indexing="ij")
    return ((7 * y + 3 * x + 50 * b + x * y // 11) % 251) / 255


def split(map, connectivity, distance):
    labels = measure.label(map, connectivity=connectivity)
    depth = ndimage.distance_transform_edt(map)
    peaks = feature.peak_local_max(depth, min_distance=distance, labels=labels, exclude_border=False)
    seeds = np.zeros_like(labels)
    seeds[tuple(peaks.T)] = labels[tuple(peaks.T)]
    seeds = measure.label(seeds, connectivity=2)
    # Of seeds as deep as others the first row's begins. scikit-image leaves that to its heap, so that objects would depend on others that
    # they do not touch; depths differ by far more.
    rank = np.cumsum(seeds.ravel() > 0).reshape(seeds.shape)
    depth = np.where(seeds > 0, depth + 1e-6 * (1 - rank / (rank.max() + 1)), depth)
    return segmentation.watershed(-depth, seeds, mask=map > 0, connectivity=connectivity)


def objects(labels):
    values = picture(labels)
    found = measure.regionprops(labels, intensity_image=values)
    return [
        {
            "area": int(region.area),
            "centroid": [float(v) for v in region.centroid[::-1]],
            "bbox": [int(v) for v in region.bbox],
            "perimeter": float(region.perimeter),
            "means": [float(v) for v in region.intensity_mean],
        }
        for region in found
    ]


def runs(map):
    """[value, count, value, count, ...]"""
    values = map.ravel()
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    counts = np.diff(starts, append=values.size)
    return np.stack([values[starts], counts], axis=1).ravel().tolist()


def outlines(labels):
    """Area without holes and number of holes of each object, of connectivity 4."""
    found = {}
    for shape, number in rasterio.features.shapes(labels.astype(np.int32), mask=labels > 0, connectivity=4):
        rings = shape["coordinates"]
        area = lambda ring: abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:]))) / 2
        found[int(number)] = [area(rings[0]) - sum(map(area, rings[1:])), len(rings) - 1]
    return [found[number] for number in sorted(found)]


def main():
    labels = {f"noise_{c}": measure.label(noise(), connectivity=c) for c in (1, 2)}
    labels |= {f"discs_{c}": measure.label(discs(), connectivity=c) for c in (1, 2)}
    splits = {f"discs_{c}_{d}": split(discs(), c, d) for c in (1, 2) for d in (1, 3, 6)}
    fixture = {
        "labels": {name: runs(map) for name, map in labels.items()},
        "distances": runs(np.rint(ndimage.distance_transform_edt(discs()) ** 2).astype(int)),
        "splits": {name: runs(map) for name, map in splits.items()},
        "cleaned": {name: runs(map.astype(int)) for name, map in cleaned().items()},
        "objects": {name: objects(labels[name]) for name in ("noise_1", "noise_2", "discs_2")},
        "outlines": {name: outlines(labels[name]) for name in ("noise_1", "discs_1")},
    }
    FIXTURE.write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
    print({name: int(map.max()) for name, map in (labels | splits).items()}, FIXTURE.stat().st_size)


if __name__ == "__main__":
    if "--scene" in sys.argv:
        write_scene(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
        write_scene(FIXTURE.with_suffix(""), 300)
