"""Reference values of `segkiln_data::resize_image_by` and `segkiln_data::Preset`: PIL's BILINEAR and BICUBIC on 32-bit floats, and torchvision's
ImageClassification on 8-bit grey levels.

    $PYTHON tests/parity/data_resize.py  # needs numpy, pillow, torch and torchvision

The output is in the tests of crates/segkiln-data/src/resize.rs and preset.rs.
"""

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification


def grey(width, height):
    return np.array([[(3 * x * x + 7 * y + x * y) % 17 for x in range(width)] for y in range(height)])


for name, filter in [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]:
    for width, height in [(7, 6), (3, 2), (5, 2), (2, 4), (13, 3)]:
        resized = np.array(Image.fromarray(grey(5, 4).astype(np.float32)).resize((width, height), filter))
        print(name, (width, height), [round(float(value), 5) for value in resized.ravel()])

image = Image.fromarray((grey(9, 14) * 15).astype(np.uint8))
for resize, crop in [(9, 4), (6, 5), (12, 3)]:
    for filter in [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]:
        preset = ImageClassification(crop_size=crop, resize_size=resize, mean=(0,), std=(1,), interpolation=filter)
        print(filter.value, (resize, crop), [round(float(value) * 255) for value in preset(image).ravel()])
