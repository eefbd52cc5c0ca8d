"""TIFFs of every compression, depth, layout and order of bytes, for the tests of `segkiln_data::regions`.

    pip install imagecodecs numpy tifffile
    python tests/parity/tiff_matrix.py

writes crates/segkiln-data/tests/fixtures/regions/matrix.bin, which has some files of each kind. With `--all FILE` it writes all
combinations, which the same test reads where the variable SEGKILN_TIFF_MATRIX names the file:

    python tests/parity/tiff_matrix.py --all /tmp/matrix.bin
    SEGKILN_TIFF_MATRIX=/tmp/matrix.bin cargo test -p segkiln-data --lib matrix

The file is compressed by zlib. For each TIFF it has a line of JSON and, in binary, the TIFF and the values that tifffile reads from
it, row by row as 32-bit floats: unsigned integers of up to 32 bits divided by the greatest.
"""

import io
import itertools
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import tifffile

FIXTURE = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/regions/matrix.bin"
HEIGHT, WIDTH = 37, 29
LAYOUTS = {"strips": {"rowsperstrip": 8}, "strip": {"rowsperstrip": HEIGHT}, "tiles": {"tile": (16, 16)}, "wide": {"tile": (16, 48)}}
DEPTHS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
METHODS = {"none": None, "lzw": "lzw", "deflate": "zlib", "old_deflate": "deflate", "packbits": "packbits", "zstd": "zstd"}


def picture(dtype, bands):
    """Smooth in places and not in others, with the least and the greatest numbers of the type."""
    y, x, b = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), np.arange(bands), indexing="ij")
    values = (7 * y + 3 * x + 50 * b + x * y // 11) % 251
    if dtype.kind == "f":
        return ((values - 100) / 16).astype(dtype)
    info = np.iinfo(dtype)
    values = values.astype(np.float64) / 250 * (float(info.max) - float(info.min)) + float(info.min)
    return np.clip(np.round(values), info.min, float(info.max) * (1 - 1e-15)).astype(dtype)


def expected(values, bits):
    values = values.reshape(HEIGHT, WIDTH, -1)
    if values.dtype.kind in "ub" and bits <= 32:
        return (values.astype(np.float64) / (2**bits - 1)).astype(np.float32)
    return values.astype(np.float32)


def tiff(values, tags={}, **options):
    """A file with some tags that tifffile does not write by itself: under other numbers, which are then changed."""
    file = io.BytesIO()
    spare = [(65000 + at, 3, 1, value, True) for at, value in enumerate(tags.values())]
    tifffile.imwrite(file, values, metadata=None, software=False, extratags=spare, **options)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for at, number in enumerate(tags):
            struct.pack_into(file.byteorder + "H", data, file.pages[0].tags[65000 + at].offset, number)
    return bytes(data)


def patched(data, tag, value):
    """The first value of a tag of 16 or 32 bits replaced."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag, order = file.pages[0].tags[tag], file.byteorder
    size = {3: "H", 4: "I"}[int(tag.dtype)]
    data = bytearray(data)
    for at in range(tag.count):
        struct.pack_into(order + size, data, tag.valueoffset + at * struct.calcsize(size), value)
    return bytes(data)


def read(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values = page.asarray()
        return np.moveaxis(values, 0, -1) if page.planarconfig == 2 and values.ndim == 3 else values


def blocks(data, change):
    """The bytes of tiles or strips changed, without a change of their number."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts))
    data = bytearray(data)
    for offset, count in places:
        data[offset : offset + count] = change(bytes(data[offset : offset + count]))
    return bytes(data)


def reversed_bits(data):
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)


def packed(values, bits, order):
    """Numbers of some bits, the highest first, in rows of whole bytes: what TIFF has for depths that are no whole bytes."""
    rows = []
    for row in values.reshape(values.shape[0], -1):
        text = "".join(f"{int(value):0{bits}b}" for value in row)
        rows.append(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big"))
    # A gray picture of the rows' bytes, whose tags are changed afterwards.
    data = np.frombuffer(b"".join(rows), np.uint8).reshape(values.shape[0], -1)
    file = tiff(data, photometric="minisblack", rowsperstrip=8, byteorder=order, compression="zlib")
    return patched(patched(file, "BitsPerSample", bits), "ImageWidth", values.shape[1])


def combinations():
    """Name, file, values or a part of the error's message, and how far values may be."""
    product = itertools.product(DEPTHS, METHODS, (1, 2, 3), "<>", LAYOUTS, ((1, "contig"), (3, "contig"), (3, "separate"), (5, "contig")))
    for at, (depth, method, predictor, order, layout, (bands, planar)) in enumerate(product):
        dtype = np.dtype(depth)
        # tifffile predicts floats by their bytes only.
        if (predictor == 3) != (dtype.kind == "f") and predictor > 1 or predictor > 1 and method in ("none", "packbits"):
            continue
        # Each seventh, as all are thousands; 7 has no factor of the product's sides in common.
        if at % 7:
            continue
        values = picture(dtype, bands)
        values = np.moveaxis(values, -1, 0) if planar == "separate" else values[..., 0] if bands == 1 else values
        photometric = "rgb" if bands == 3 and dtype.kind == "u" else "minisblack"
        options = dict(photometric=photometric, byteorder=order, compression=METHODS[method], bigtiff=at % 3 == 0, **LAYOUTS[layout])
        if predictor > 1:
            options["predictor"] = predictor
        if bands > 1:
            options["planarconfig"] = planar
        name = f"{depth} {method} {predictor} {order} {layout} {bands} {planar}"
        data = tiff(values, **options)
        yield name, data, expected(read(data), 8 * dtype.itemsize), 1e-6 if dtype.kind != "i" else 0
    byte, short = picture(np.dtype("u1"), 1)[..., 0], picture(np.dtype("u2"), 1)[..., 0]
    for order, bits in itertools.product("<>", (1, 2, 3, 4, 6, 10, 12, 14)):
        values = (short.astype(np.uint32) >> (16 - bits)).astype(np.uint16)
        data = packed(values, bits, order)
        assert (read(data).reshape(values.shape) == values).all(), bits
        yield f"{bits} bits {order}", data, expected(read(data), bits), 1e-6
    for order in "<>":
        # 24 bits: integers, and floats of which 16 are the mantissa; these plain and predicted.
        numbers = picture(np.dtype("u4"), 1)[..., 0] >> 8
        raw = numbers.astype("<u4" if order == "<" else ">u4").view(np.uint8).reshape(HEIGHT, WIDTH, 4)
        raw = raw[..., :3] if order == "<" else raw[..., 1:]
        data = tiff(raw.reshape(HEIGHT, -1), photometric="minisblack", rowsperstrip=8, byteorder=order, compression="zstd")
        data = patched(patched(data, "BitsPerSample", 24), "ImageWidth", WIDTH)
        yield f"24 bits {order}", data, (numbers / (2**24 - 1)).astype(np.float32), 1e-6
        floats = ((byte.astype(np.float32) - 100) / 16).view(np.uint32)
        sign, exponent, mantissa = floats >> 31, (floats >> 23 & 255).astype(np.int64) - 127 + 63, floats >> 7 & 0xFFFF
        bits = np.where(floats << 1 == 0, 0, sign << 23 | np.clip(exponent, 0, 126).astype(np.uint32) << 16 | mantissa).astype(np.uint32)
        raw = bits.astype("<u4" if order == "<" else ">u4").view(np.uint8).reshape(HEIGHT, WIDTH, 4)
        raw = raw[..., :3] if order == "<" else raw[..., 1:]
        for predictor in (1, 3):
            if predictor == 3:
                planes = np.moveaxis(bits.astype(">u4").view(np.uint8).reshape(HEIGHT, WIDTH, 4)[..., 1:], -1, 1).reshape(HEIGHT, -1)
                raw = np.diff(planes, axis=1, prepend=np.zeros((HEIGHT, 1), np.uint8)).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
            # Sample format 3: floats; 317 is the predictor.
            tags = {339: 3, **({317: 3} if predictor == 3 else {})}
            data = tiff(raw.reshape(HEIGHT, -1), tags, photometric="minisblack", rowsperstrip=8, byteorder=order, compression="zlib")
            data = patched(patched(data, "BitsPerSample", 24), "ImageWidth", WIDTH)
            yield f"f24 {predictor} {order}", data, floats.view(np.float32), 0
    # Bytes that begin with their lowest bit, whatever the compression.
    for (name, method), layout in itertools.product(METHODS.items(), LAYOUTS):
        values = picture(np.dtype("u2"), 3)
        data = tiff(values, {266: 2}, photometric="rgb", compression=method, **LAYOUTS[layout])
        yield f"fill order 2 {name} {layout}", blocks(data, reversed_bits), expected(values, 16), 1e-6
    # Palettes; expected are colors of 8 bits, as libtiff has them.
    for bits, order in itertools.product((4, 8, 16), "<>"):
        indices = byte >> 4 if bits == 4 else byte if bits == 8 else short
        at = np.arange(2**bits)
        colors = np.stack([at * 65535 // at.max(), at[::-1] * 65535 // at.max(), at * 7919 % 65536]).astype(np.uint16)
        if bits == 4:
            rows = np.frombuffer(b"".join(int("".join(f"{value:04b}" for value in row).ljust(120, "0"), 2).to_bytes(15, "big") for row in indices), np.uint8)
            wide = np.zeros((3, 256), np.uint16)
            # The map of 16 colors stands at the beginning of one of 256.
            wide.reshape(-1)[:48] = colors.reshape(-1)
            data = tiff(rows.reshape(HEIGHT, 15), photometric="palette", colormap=wide, rowsperstrip=8, byteorder=order, compression="lzw")
            data = patched(patched(data, "BitsPerSample", 4), "ImageWidth", WIDTH)
        else:
            data = tiff(indices, photometric="palette", colormap=colors, tile=(16, 16), byteorder=order, compression="zlib")
        yield f"palette {bits} {order}", data, (np.moveaxis(colors[:, indices], 0, -1) >> 8).astype(np.float32) / 255, 1e-6
    white = tiff(byte, photometric="miniswhite", rowsperstrip=8, compression="zstd")
    yield "white is zero", white, expected(255 - byte, 8), 1e-6
    for bands in (3, 4):
        values = picture(np.dtype("u1"), bands)
        if bands == 4:
            values[..., 3] = 255
        for layout in ("strips", "tiles"):
            options = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
            data = tiff(values, photometric="rgb", compression="webp", compressionargs={"lossless": True}, **options, **LAYOUTS[layout])
            yield f"webp {bands} {layout}", data, expected(read(data), 8), 1e-6
    smooth = np.add.outer(np.add.outer(2 * np.arange(HEIGHT), 2 * np.arange(WIDTH)), 40 * np.arange(3)).astype(np.uint8)
    for layout, sampling in itertools.product(("strips", "strip", "tiles"), ((1, 1), (2, 1), (2, 2))):
        data = tiff(smooth, photometric="ycbcr", compression="jpeg", subsampling=sampling, compressionargs={"level": 98}, **LAYOUTS[layout])
        yield f"jpeg ycbcr {sampling} {layout}", data, expected(read(data), 8), 0.03
    data = tiff(smooth, photometric="rgb", compression="jpeg", compressionargs={"level": 98, "outcolorspace": "rgb"}, tile=(16, 16))
    yield "jpeg rgb", data, expected(read(data), 8), 0.03
    data = tiff(smooth[..., 0], photometric="minisblack", compression="jpeg", compressionargs={"level": 98}, tile=(16, 16))
    yield "jpeg gray", data, expected(read(data), 8), 0.03
    # Colors and more bands.
    values = picture(np.dtype("u1"), 5)
    data = tiff(values, photometric="rgb", extrasamples=["unspecified"] * 2, compression="zlib", predictor=2, tile=(16, 16))
    yield "rgb and two bands", data, expected(values, 8), 1e-6
    # Named errors.
    for method in ("lerc", "jpeg2000", "jpegxl", "lzma"):
        yield method, tiff(smooth, photometric="rgb", compression=method, tile=(16, 16)), "compression is not supported", 0
    yield "cmyk", tiff(picture(np.dtype("u1"), 4), photometric="separated", tile=(16, 16)), "CMYK", 0
    yield "lab", tiff(picture(np.dtype("u1"), 3), photometric="cielab", tile=(16, 16)), "Lab", 0
    yield "complex", tiff(byte.astype(np.complex64), photometric="minisblack"), "complex", 0
    yield "predictor of 4 bits", patched(tiff(byte[:, :28], photometric="minisblack", predictor=2, compression="zlib"), "BitsPerSample", 4), "predictor", 0
    old = patched(tiff(byte, photometric="minisblack", compression="zlib", rowsperstrip=8), "Compression", 6)
    yield "old jpeg", old, "old-style JPEG", 0
    short_block = patched(tiff(byte, photometric="minisblack", rowsperstrip=HEIGHT), "StripByteCounts", 100)
    yield "wrong byte count", short_block, "it has 100 bytes, and its pixels need", 0
    for method in ("zlib", "lzw", "zstd"):
        data = tiff(byte, photometric="minisblack", rowsperstrip=HEIGHT, compression=method)
        yield f"damaged {method}", blocks(data, lambda bytes: bytes[:20] + b"\x55" * (len(bytes) - 20)), "its data", 0
    yield "behind the end", patched(tiff(byte, photometric="minisblack", rowsperstrip=HEIGHT), "StripOffsets", 10**6), "the file is truncated", 0


def main():
    all_files = "--all" in sys.argv
    target = Path(sys.argv[-1]) if all_files else FIXTURE
    packed, count, kinds = zlib.compressobj(9), 0, {}
    out, known = [], {}
    for name, data, values, within in combinations():
        # Of the product, each nineteenth; of fill orders strips; no palettes of 400 kB.
        place = len(kinds)
        kinds[name] = place
        if not all_files and (name[:2] in DEPTHS and place % 19 or name.startswith("fill") and not name.endswith("strips") or name.startswith("palette 16")):
            continue
        count += 1
        head = {"name": name, "file": len(data), "within": within}
        if isinstance(values, str):
            head["error"], values = values, np.zeros(0, np.float32)
        else:
            head["bands"] = 1 if values.ndim == 2 else values.shape[2]
        # Values that stand there already are named by their place.
        values = values.astype("<f4").tobytes()
        if values in known:
            head["same"], values = known[values], b""
        else:
            known[values] = len(known)
        head["values"] = len(values) // 4
        out.append(packed.compress(json.dumps(head).encode() + b"\n" + data + values))
    out.append(packed.flush())
    target.write_bytes(b"".join(out))
    print(f"{count} files, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
