"""Fixture for `segkiln_data::DenseCrf`: what pydensecrf gives.

    pip install numpy "cython<3" setuptools && pip install --no-build-isolation pydensecrf
    python tests/parity/crf.py             # writes crates/segkiln-data/tests/fixtures/crf.json
    python tests/parity/crf.py --time      # how long 21 classes of 500x375 pixels take; as benches/crf.rs

pydensecrf 1.0rc3 has its wrappers generated for old Pythons: where it does not compile, remove pydensecrf/eigen.cpp and
pydensecrf/densecrf.cpp from its source, and Cython writes them anew.

Images and probabilities are those of crates/segkiln-data/src/crf/tests.rs, by integers.
"""

import json
import os
import sys
import time

import numpy as np
import pydensecrf.densecrf as densecrf
from pydensecrf.utils import unary_from_softmax

OUT = os.path.join(os.path.dirname(__file__), "../../crates/segkiln-data/tests/fixtures/crf.json")
DEEPLAB = dict(iterations=10, gaussian_weight=3, gaussian_sigma=3, bilateral_weight=4, bilateral_sigma=67, color_sigma=3)
EXAMPLE = dict(DEEPLAB, gaussian_sigma=1.5, bilateral_weight=10, bilateral_sigma=80, color_sigma=13)
# classes, width, height, options
CASES = [(2, 33, 21, DEEPLAB), (5, 19, 17, DEEPLAB), (5, 20, 13, EXAMPLE), (3, 1, 41, EXAMPLE), (2, 37, 1, DEEPLAB), (21, 9, 7, dict(DEEPLAB, iterations=3))]


def image(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * 7 + y * 13 + c * 31 + x * y % 17 * 5) % 256 // 8 + (x // 24 + 2 * (y // 20) + c) % 3 * 60).astype(np.uint8)


def probabilities(classes, width, height):
    k, y, x = np.mgrid[0:classes, 0:height, 0:width]
    share = 1 + (x * 5 + y * 11 + k * 17 + x * y % 13 * 3) % 7 + 4 * ((x // 24 + 2 * (y // 20)) % classes == k)
    return share.astype(np.float32) / share.sum(0).astype(np.float32)


def refine(given, pixels, options):
    classes, height, width = given.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(given)))
    crf.addPairwiseGaussian(sxy=options["gaussian_sigma"], compat=options["gaussian_weight"])
    crf.addPairwiseBilateral(sxy=options["bilateral_sigma"], srgb=options["color_sigma"], rgbim=pixels, compat=options["bilateral_weight"])
    return np.array(crf.inference(options["iterations"])).reshape(given.shape)


def main():
    if "--time" in sys.argv:
        given, pixels = probabilities(21, 500, 375), image(500, 375)
        for _ in range(5):
            start, used = time.perf_counter(), time.process_time()
            refine(given, pixels, DEEPLAB)
            print(f"{time.perf_counter() - start:.3f} s, {time.process_time() - used:.3f} s of the processor")
        return
    cases = []
    for classes, width, height, options in CASES:
        refined = refine(probabilities(classes, width, height), image(width, height), options)
        assert abs(refined.sum(0) - 1).max() < 1e-5
        print(classes, width, height, "moved by up to", abs(refined - probabilities(classes, width, height)).max())
        cases.append(dict(classes=classes, width=width, height=height, **options, refined=[round(float(value), 6) for value in refined.ravel()]))
    with open(OUT, "w") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
