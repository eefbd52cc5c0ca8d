"""Reference values of `segkiln_data::resize_image`: PIL's BILINEAR on 32-bit floats.

    pip install pillow numpy
    python tests/parity/data_resize.py

The output is in the tests of crates/segkiln-data/src/resize.rs.
"""

import numpy as np
from PIL import Image

image = np.array([[(3 * x * x + 7 * y + x * y) % 17 for x in range(5)] for y in range(4)], np.float32)
for width, height in [(7, 6), (3, 2), (5, 2), (2, 4), (13, 3)]:
    resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    print((width, height), [round(float(value), 5) for value in resized.ravel()])
