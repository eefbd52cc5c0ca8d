"""TIFFs that are read by region, for the tests of `segkiln_data::regions`.

    pip install imagecodecs numpy rasterio tifffile
    python tests/parity/regions.py

writes crates/segkiln-data/tests/fixtures/regions/*.tif. Pictures have 70 rows and 90 columns; band b of row y and column x is
(7 y + 3 x + 50 b + x y // 11) mod 251, times what is said at each. With an argument it reads a file that `TiffSink` wrote, by
tifffile and rasterio, and prints what they find:

    python tests/parity/regions.py FILE
"""

import json
import sys
from pathlib import Path

import numpy as np
import tifffile

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/regions"


def picture(bands, height=70, width=90, step=1):
    y, x, b = np.meshgrid(np.arange(height) * step, np.arange(width) * step, np.arange(bands), indexing="ij")
    return (7 * y + 3 * x + 50 * b + x * y // 11) % 251


def write(name, values, **options):
    tifffile.imwrite(FIXTURES / f"{name}.tif", values, metadata=None, software=False, **options)


def fixtures():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    rgb = picture(3).astype(np.uint8)
    write("tiles_deflate", rgb, photometric="rgb", tile=(32, 48), compression="zlib", predictor=True)
    write("strips_lzw", picture(1)[..., 0].astype(np.uint8), rowsperstrip=16, compression="lzw")
    write("packbits_bigtiff", rgb, photometric="rgb", rowsperstrip=7, compression="packbits", bigtiff=True)
    # Five bands of 16 bits, times 257, a plane each; and side by side.
    five = (picture(5) * 257).astype(np.uint16)
    write("planar_u16", np.moveaxis(five, -1, 0), photometric="minisblack", planarconfig="separate", tile=(32, 32), compression="zlib")
    write("bands_u16", five, photometric="minisblack", planarconfig="contig", byteorder=">", rowsperstrip=70)
    write("zstd_u16", (picture(1)[..., 0] * 257).astype(np.uint16), tile=(32, 48), compression="zstd", predictor=True)
    # Values minus 100, and a hole of -9999 that GDAL's tag names.
    numbers = picture(1)[..., 0].astype(np.float32) - 100
    numbers[20:60, 30:80] = -9999
    write("f32_nodata", numbers, tile=(16, 16), compression="zlib", predictor=3, extratags=[(42113, 2, 6, "-9999", True)])
    write("i16", (picture(1)[..., 0] - 100).astype(np.int16), tile=(16, 16), byteorder=">")
    write("bits", (picture(1)[..., 0] % 2).astype(bool), photometric="minisblack", rowsperstrip=20)
    # Levels in sub-IFDs, and as pages.
    halves = [picture(3, 35, 45, 2).astype(np.uint8), picture(3, 18, 23, 4).astype(np.uint8)]
    with tifffile.TiffWriter(FIXTURES / "pyramid_sub.tif") as file:
        options = dict(photometric="rgb", tile=(16, 16), compression="zlib", metadata=None, software=False)
        file.write(rgb, subifds=2, **options)
        for half in halves:
            file.write(half, subfiletype=1, **options)
    with tifffile.TiffWriter(FIXTURES / "pyramid_pages.tif") as file:
        file.write(rgb, **options)
        file.write(np.zeros((30, 20, 3), np.uint8), **options)  # a label, no copy
        for half in halves:
            file.write(half, **options)
    # A slide by OME-XML: pixels of 0.5 by 0.25 micrometers.
    pixels = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(FIXTURES / "ome.tif", picture(3, 20, 24).astype(np.uint8), ome=True, photometric="rgb", metadata=pixels, software=False, compression="zlib")
    # A scene in UTM zone 32 with pixels of 10 m, by GDAL; and one whose empty blocks GDAL leaves out.
    import rasterio

    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    options = dict(driver="GTiff", width=90, height=70, count=3, dtype="uint8", crs="EPSG:32632", transform=transform, tiled=True, blockxsize=32, blockysize=32)
    with rasterio.open(FIXTURES / "geo.tif", "w", compress="deflate", **options) as file:
        file.write(np.moveaxis(rgb, -1, 0))
    # Smooth, as JPEG wants it: y + x + 40 b.
    smooth = np.add.outer(40 * np.arange(3), np.add.outer(np.arange(70), np.arange(90))).astype(np.uint8)
    with rasterio.open(FIXTURES / "jpeg.tif", "w", compress="jpeg", photometric="ycbcr", jpeg_quality=98, **options) as file:
        file.write(smooth)
    with rasterio.open(FIXTURES / "sparse.tif", "w", sparse_ok=True, **options) as file:
        file.write(np.moveaxis(rgb, -1, 0)[:, :32, :32], window=rasterio.windows.Window(0, 0, 32, 32))


def report(path):
    import rasterio

    with tifffile.TiffFile(path) as file:
        pages = [page.asarray() for page in file.pages]
    found = {"big": file.is_bigtiff, "shapes": [page.shape for page in pages], "sums": [float(page.astype(np.float64).sum()) for page in pages]}
    with rasterio.open(path) as file:
        found["transform"] = list(file.transform)[:6]
        found["crs"] = file.crs.to_string() if file.crs else None
        found["overviews"] = file.overviews(1)
        found["sum"] = float(file.read().astype(np.float64).sum())
    print(json.dumps(found))


if __name__ == "__main__":
    report(sys.argv[1]) if len(sys.argv) > 1 else fixtures()
