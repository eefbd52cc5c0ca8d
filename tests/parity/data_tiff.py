"""Small TIFFs of the kinds that microscopes and Python write, for the tests of `segkiln_data`.

    pip install imagecodecs numpy pillow tifffile
    python tests/parity/data_tiff.py

writes crates/segkiln-data/tests/fixtures/*.tif. All hold the values `image[y, x] = 5 y + x` of 5 columns and 3 rows, or
what is said at each.
"""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures"
FIXTURES.mkdir(parents=True, exist_ok=True)

image = np.arange(15).reshape(3, 5)


def write(name, values, **options):
    tifffile.imwrite(FIXTURES / f"{name}.tif", values, metadata=None, software=False, **options)


# Three planes one after the other: the image, plus 100, plus 200.
planes = np.stack([image, image + 100, image + 200]).astype(np.uint8)
write("planar", planes, photometric="rgb", planarconfig="separate")
write("lzw_u16", (image * 1000).astype(np.uint16), compression="lzw", predictor=True)
write("deflate_i64", image.astype(np.int64), compression="zlib")
write("big_endian_f64", image / 2, byteorder=">")
write("f16", (image / 2).astype(np.float16))
# 32 x 32 in tiles of 16 x 16, y + x
write("tiled", np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8), tile=(16, 16))
# Odd values set.
Image.fromarray(image % 2 == 1).save(FIXTURES / "bilevel.tif")
# Index i has the colour (i, 2 i, 3 i); not supported, and said so.
indexed = Image.fromarray(image.astype(np.uint8), mode="P")
indexed.putpalette([v for i in range(256) for v in (i, 2 * i % 256, 3 * i % 256)])
indexed.save(FIXTURES / "palette.tif")
