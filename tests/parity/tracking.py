"""Sequences of boxes and of label maps with the metrics that others compute for them, for the tests of `segkiln_track`.

    pip install motmetrics numpy py-ctcmetrics scipy tifffile trackeval
    python tests/parity/tracking.py

writes crates/segkiln-track/tests/fixtures/tracking.json: MOTA and MOTP and their counts and IDF1 of motmetrics, HOTA of TrackEval,
SEG and TRA of py-ctcmetrics, and the states of a Kalman filter of eight dimensions with full matrices (DeepSORT's model).
"""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import motmetrics
import numpy as np
import tifffile
import trackeval
from ctc_metrics.scripts.evaluate import evaluate_sequence

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-track/tests/fixtures"
FIXTURES.mkdir(parents=True, exist_ok=True)


def round_boxes(boxes):
    return [[object_id, [round(float(v), 3) for v in box]] for object_id, box in boxes]


def iou(a, b):
    a, b = np.asarray(a)[:, None], np.asarray(b)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.prod(np.clip(size, 0, None), -1)
    return both / (np.prod(a[..., 2:] - a[..., :2], -1) + np.prod(b[..., 2:] - b[..., :2], -1) - both)


def sequence(seed, objects=6, frames=25, noise=2.5):
    """Objects that cross each other, and a tracker that misses some, invents some and exchanges numbers."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 90, (objects, 2)), rng.uniform(-2.5, 2.5, (objects, 2))
    size = rng.uniform(12, 24, (objects, 2))
    born, gone = rng.integers(0, 6, objects), rng.integers(frames - 8, frames, objects)
    number = {k: 100 + k for k in range(objects)}
    out, invented = [], 500
    for t in range(frames):
        truth, result = [], []
        if t in (8, 15):
            a, b = rng.choice(objects, 2, replace=False)
            number[int(a)], number[int(b)] = number[int(b)], number[int(a)]
        if t == 12:
            number[0] = 300
        for k in range(objects):
            if not born[k] <= t <= gone[k]:
                continue
            corner = place[k] + t * speed[k]
            truth.append((k + 1, [*corner, *(corner + size[k])]))
            if rng.uniform() > 0.12:
                moved = corner + rng.normal(0, noise, 2)
                result.append((number[k], [*moved, *(moved + size[k] * rng.uniform(0.85, 1.15, 2))]))
        if rng.uniform() < 0.3:
            corner = rng.uniform(0, 90, 2)
            result.append((invented, [*corner, *(corner + 15)]))
            invented += 1
        out.append((round_boxes(truth), round_boxes(result)))
    return out


def clear_and_identity(frames):
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for truth, result in frames:
        distances = np.empty((len(truth), len(result)))
        if truth and result:
            distances = 1 - iou([b for _, b in truth], [b for _, b in result])
            distances[distances > 0.5] = np.nan
        accumulator.update([i for i, _ in truth], [i for i, _ in result], distances)
    names = ["mota", "motp", "num_switches", "num_misses", "num_false_positives", "idf1", "idp", "idr"]
    summary = motmetrics.metrics.create().compute(accumulator, metrics=names, name="x")
    return {name: float(summary[name].iloc[0]) for name in names}


def hota(frames):
    truths = sorted({i for truth, _ in frames for i, _ in truth})
    results = sorted({i for _, result in frames for i, _ in result})
    data = {
        "num_timesteps": len(frames),
        "num_gt_ids": len(truths),
        "num_tracker_ids": len(results),
        "num_gt_dets": sum(len(truth) for truth, _ in frames),
        "num_tracker_dets": sum(len(result) for _, result in frames),
        "gt_ids": [np.array([truths.index(i) for i, _ in truth], int) for truth, _ in frames],
        "tracker_ids": [np.array([results.index(i) for i, _ in result], int) for _, result in frames],
        "similarity_scores": [
            iou([b for _, b in truth], [b for _, b in result]) if truth and result else np.zeros((len(truth), len(result)))
            for truth, result in frames
        ],
    }
    values = trackeval.metrics.HOTA().eval_sequence(data)
    return {name: float(np.mean(values[name])) for name in ["HOTA", "DetA", "AssA", "LocA"]}


def cells(seed, frames=8, side=40):
    """Squares that move and divide, and a result with merged, missing, invented and exchanged ones."""
    rng = np.random.default_rng(seed)
    living = {k + 1: [rng.integers(2, 28, 2), int(rng.integers(6, 10)), 0, 0] for k in range(5)}  # place, size, begin, parent
    truths, results, tracks, next_label = [], [], {}, 6
    for t in range(frames):
        truth, result = np.zeros((side, side), np.uint16), np.zeros((side, side), np.uint16)
        for label in list(living):
            place, size, begin, parent = living[label]
            if t - begin >= 3 and size >= 6 and rng.uniform() < 0.3:
                del living[label]
                for half in range(2):
                    living[next_label] = [np.clip(place + [0, half * size], 0, side - 8), size - 2, t, label]
                    next_label += 1
        for label, state in living.items():
            state[0] = np.clip(state[0] + rng.integers(-1, 2, 2), 0, side - 9)
            (y, x), size = state[0], state[1]
            truth[y : y + size, x : x + size] = label
            tracks.setdefault(label, [t, t, state[3]])[1] = t
        for label in np.unique(truth)[1:]:
            ys, xs = np.nonzero(truth == label)
            found = 10 + label if not (label == 2 and t >= 4) else 60
            if rng.uniform() > 0.1:
                keep = rng.uniform(size=len(ys)) > 0.2
                result[ys[keep], xs[keep]] = found
        if t == 5:
            result[truth == 1] = result[truth == 3] = 11
        if t % 3 == 0:
            result[36:39, 36:39] = 90
        truths.append(truth), results.append(result)
    parents = {label: parent for label, (_, _, parent) in tracks.items() if parent}
    lines = without_gaps(truths, parents)
    found = without_gaps(results, {10 + label: 10 + parent for label, parent in parents.items()})
    return truths, results, lines, found


def without_gaps(maps, parents):
    """Gives cells a new label after a frame without them, in place. Returns the lines of tracks."""
    tracks, last, next_label = {}, {}, 200
    for t, labels in enumerate(maps):
        before = labels.copy()
        for label in map(int, np.unique(before)[1:]):
            now = last.get(label)
            if now is None or tracks[now][1] < t - 1:
                parent = last.get(parents.get(label)) if now is None else None
                now = label if now is None else next_label
                next_label += now == next_label
                last[label] = now
                tracks[now] = [t, t, parent if parent and tracks[parent][1] < t else 0]
            tracks[now][1] = t
            labels[before == label] = now
    ends = {label: end for label, (_, end, _) in tracks.items()}
    return [[label, begin, end, parent if parent and ends[parent] < begin else 0] for label, (begin, end, parent) in tracks.items()]


def runs(maps):
    """The runs of each map, row by row: label, number of pixels, label, number, and so on."""
    out = []
    for flat in (labels.reshape(-1) for labels in maps):
        starts = np.concatenate([[0], np.nonzero(np.diff(flat.astype(int)))[0] + 1, [flat.size]])
        out.append([int(v) for start, end in zip(starts, starts[1:]) for v in (flat[start], end - start)])
    return out


def ctc(truths, results, lines, found):
    """The folders of a sequence, as the challenge has them."""
    with tempfile.TemporaryDirectory() as folder:
        gt, res = Path(folder) / "01_GT", Path(folder) / "01_RES"
        for sub in (gt / "TRA", gt / "SEG", res):
            sub.mkdir(parents=True)
        for t, (truth, result) in enumerate(zip(truths, results)):
            tifffile.imwrite(gt / f"TRA/man_track{t:03d}.tif", truth)
            tifffile.imwrite(gt / f"SEG/man_seg{t:03d}.tif", truth)
            tifffile.imwrite(res / f"mask{t:03d}.tif", result)
        (gt / "TRA/man_track.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
        (res / "res_track.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in found))
        with contextlib.redirect_stdout(io.StringIO()):
            values = evaluate_sequence(str(res), str(gt), ["SEG", "TRA", "DET"], threads=1)
    return {name: float(values[name]) for name in ["SEG", "TRA", "DET"]}


def kalman(seed, steps=12):
    rng = np.random.default_rng(seed)
    boxes = [[10 + 3 * t + rng.normal(), 20 - t + rng.normal(), 12 + rng.normal(), 30 + t + rng.normal()] for t in range(steps)]
    boxes = [[round(v, 3) for v in box] for box in boxes]  # x, y, width, height
    motion, seen = np.eye(8), np.eye(4, 8)
    motion[:4, 4:] = np.eye(4)
    measure = lambda box: np.array([box[0] + box[2] / 2, box[1] + box[3] / 2, box[2] / box[3], box[3]])
    noise = lambda h, p, v: np.diag(np.square([p * h, p * h, 1e-2, p * h, v * h, v * h, 1e-5, v * h]))
    mean = np.concatenate([measure(boxes[0]), np.zeros(4)])
    covariance = noise(mean[3], 2 / 20, 10 / 160)
    states = []
    for t, box in enumerate(boxes[1:], 1):
        if t == 6:  # not seen in frame 5
            mean[7] = 0
        covariance = motion @ covariance @ motion.T + noise(mean[3], 1 / 20, 1 / 160)
        mean = motion @ mean
        if t != 5:
            h = mean[3]
            innovation = seen @ covariance @ seen.T + np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))
            gain = covariance @ seen.T @ np.linalg.inv(innovation)
            mean = mean + gain @ (measure(box) - seen @ mean)
            covariance = covariance - gain @ innovation @ gain.T
        x, y, a, h = mean[:4]
        states.append([x - a * h / 2, y - h / 2, a * h, h])
    return {"boxes": boxes, "unseen": 5, "states": states}


sequences = []
for seed in range(4):
    frames = sequence(seed, noise=[0.5, 1.5, 2.5, 4.0][seed])
    sequences.append({"frames": frames, **clear_and_identity(frames), **hota(frames)})
    print({k: v for k, v in sequences[-1].items() if k != "frames"})
films = []
for seed in range(3):
    truths, results, lines, found = cells(seed)
    films.append({"side": 40, "truth": runs(truths), "result": runs(results), "tracks": lines, "found": found, **ctc(truths, results, lines, found)})
    print({k: films[-1][k] for k in ["SEG", "TRA", "DET"]})
(FIXTURES / "tracking.json").write_text(json.dumps({"sequences": sequences, "films": films, "kalman": kalman(0)}, separators=(",", ":")))
