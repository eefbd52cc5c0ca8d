"""Small films, and what ffmpeg makes of them, for the tests of `segkiln_data::films`.

    pip install imageio numpy pillow tifffile      # and ffmpeg with zscale, such as Debian's
    python tests/parity/films.py

writes crates/segkiln-data/tests/fixtures/films/: Y4M of each sampling with the RGB values (NAME.rgb, all frames, 8 or 16 bits)
that zimg (https://github.com/sekrit-twc/zimg, in ffmpeg's filter `zscale`) gives for them with bilinear chroma, a GIF, an APNG, an
animated WebP and a TIFF stack with the values `FRAMES` in this file.
"""

import subprocess
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/films"
FIXTURES.mkdir(parents=True, exist_ok=True)
WIDTH, HEIGHT, COUNT = 16, 12, 2

# name: the header's color space, chroma's columns and rows a luma sample, bits, XCOLORRANGE, zscale's matrix and chroma location
FILMS = {
    "mono": ("mono", None, 8, "FULL", "170m", "left"),
    "mono_limited": ("mono", None, 8, "LIMITED", "170m", "left"),
    "444_limited_601": ("444", (1, 1), 8, "LIMITED", "170m", "left"),
    "444_full_709": ("444", (1, 1), 8, "FULL", "709", "left"),
    "422_limited_601": ("422", (2, 1), 8, None, "170m", "left"),
    "420jpeg_limited_601": ("420jpeg", (2, 2), 8, None, "170m", "center"),
    "420_full_601": ("420", (2, 2), 8, "FULL", "170m", "center"),
    "420mpeg2_limited_709": ("420mpeg2", (2, 2), 8, "LIMITED", "709", "left"),
    "420paldv_limited_601": ("420paldv", (2, 2), 8, "LIMITED", "170m", "topleft"),
    "420p10_limited_601": ("420p10", (2, 2), 10, "LIMITED", "170m", "left"),
    "444p10_full_709": ("444p10", (1, 1), 10, "FULL", "709", "left"),
}
PIXELS = {None: "gray", (1, 1): "yuv444p", (2, 1): "yuv422p", (2, 2): "yuv420p"}


def plane(rng, width, height, bits, spread):
    """Slopes and noise around the middle."""
    slope = np.add.outer(np.linspace(-1, 1, height) * rng.uniform(-1, 1), np.linspace(-1, 1, width) * rng.uniform(-1, 1))
    values = 0.5 + spread * (0.5 * slope + rng.uniform(-0.5, 0.5, (height, width)))
    return np.clip(np.rint(values * (2**bits - 1)), 0, 2**bits - 1)


for seed, (name, (space, steps, bits, color_range, matrix, location)) in enumerate(FILMS.items()):
    rng = np.random.default_rng(seed)
    header = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F30000:1001 Ip A1:1 C{space}" + (f" XCOLORRANGE={color_range}" if color_range else "")
    film, raw = header.encode() + b"\n", b""
    for _ in range(COUNT):
        planes = [plane(rng, WIDTH, HEIGHT, bits, 0.9)]
        if steps:
            planes += [plane(rng, WIDTH // steps[0], HEIGHT // steps[1], bits, 0.4) for _ in range(2)]
        frame = b"".join(values.astype("<u2" if bits > 8 else "u1").tobytes() for values in planes)
        raw += frame
        film += b"FRAME\n" + frame
    (FIXTURES / f"{name}.y4m").write_bytes(film)

    pixels = PIXELS[steps] + ("10le" if bits > 8 else "")
    is_full = color_range == "FULL"
    if steps is None:
        # No chroma, so no matrix either: the definition in two lines.
        luma = np.frombuffer(raw, np.uint8).astype(float)
        out = luma if is_full else np.clip(np.rint((luma - 16) * 255 / 219), 0, 255)
        (FIXTURES / f"{name}.rgb").write_bytes(out.astype(np.uint8).tobytes())
        continue
    planar, packed = ("gbrp16le", "rgb48le") if bits > 8 else ("gbrp", "rgb24")
    scale = f"zscale=f=bilinear:d=none:min={matrix}:m=gbr:rin={'full' if is_full else 'limited'}:r=full:cin={location},format={planar}"
    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{WIDTH}x{HEIGHT}", "-i", "-"]
    command += ["-vf", scale, "-f", "rawvideo", "-pix_fmt", packed, "-"]
    rgb = subprocess.run(command, input=raw, stdout=subprocess.PIPE, check=True).stdout
    assert len(rgb) == COUNT * WIDTH * HEIGHT * 3 * (2 if bits > 8 else 1)
    (FIXTURES / f"{name}.rgb").write_bytes(rgb)

# Frame t: a square of 2 x 2 in red at column t, on blue.
FRAMES = np.zeros((4, 6, 8, 3), np.uint8)
FRAMES[..., 2] = 255
for t, frame in enumerate(FRAMES):
    frame[2:4, t : t + 2] = (255, 0, 0)
images = [Image.fromarray(frame) for frame in FRAMES]
for name, options in {"square.gif": {}, "square.png": {}, "square.webp": {"lossless": True}}.items():
    images[0].save(FIXTURES / name, save_all=True, append_images=images[1:], duration=40, loop=0, **options)
with tifffile.TiffWriter(FIXTURES / "square.tif") as stack:
    for frame in FRAMES:
        stack.write(frame, photometric="rgb", compression="zlib", metadata=None, software=False)
