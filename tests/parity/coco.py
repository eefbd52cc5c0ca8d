"""Detection figures by pycocotools on random problems, and Pascal VOC's average precision written in NumPy.

    python tests/parity/coco.py

writes crates/segkiln-metrics/tests/fixtures/coco.json. Needs numpy and pycocotools 2.0.11.

    python tests/parity/coco.py --random 300 --program target/debug/examples/coco_eval

compares a built `coco_eval` on as many larger problems, and writes nothing.
"""

import argparse
import contextlib
import io
import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-metrics/tests/fixtures"


class Problem:
    """An annotation file and a result file, drawn from `seed`."""

    def __init__(self, seed, images=6, objects=6, detections=9, classes=4, side=200, **options):
        self.rng = np.random.default_rng(seed)
        self.options = options
        self.side = side
        # Ids have gaps and do not stand in order; the last class has no object.
        self.classes = self.rng.permutation(3 * np.arange(classes) + 1).tolist()
        self.images = [self.image(i) for i in self.rng.permutation(images)]
        self.gt, self.dt = [], []
        for image in self.images:
            self.fill(image, int(self.rng.integers(0, objects + 1)), int(self.rng.integers(0, detections + 1)))
        first = options.get("first_id", 1)
        for index, one in enumerate(self.gt):
            one["id"] = first + index
        if options.get("double_ids"):
            for one in self.gt[:: 3]:
                one["id"] = self.gt[0]["id"] + 1
        order = self.rng.permutation(len(self.dt))
        self.dt = [self.dt[i] for i in order]

    def image(self, index):
        width, height = (int(x) for x in self.rng.integers(self.side // 2, self.side + 1, 2))
        name = f"image {index}" if self.options.get("text_ids") else int(10 * index)
        return {"id": name, "width": width, "height": height, "file_name": f"{index}.png"}

    def shape(self, image):
        """A polygon of four to nine vertices, of any size."""
        rng = self.rng
        size = math.exp(rng.uniform(math.log(3), math.log(0.6 * self.side)))
        x, y = rng.uniform(0, [image["width"], image["height"]])
        n = int(rng.integers(4, 10))
        angles = np.sort(rng.uniform(0, math.tau, n))
        radii = rng.uniform(0.5, 1, (n, 1)) * size * rng.uniform(0.4, 1, 2)
        return np.array([x, y]) + radii * np.stack([np.cos(angles), np.sin(angles)], 1)

    def fill(self, image, objects, detections):
        rng = self.rng
        shapes = [(self.shape(image), int(rng.choice(self.classes[:-1]))) for _ in range(objects)]
        for points, label in shapes:
            crowd = int(rng.random() < self.options.get("crowds", 0.15))
            box, area, form = self.forms(image, points, crowd)
            self.gt.append({"id": None, "image_id": image["id"], "category_id": label, "bbox": box, "area": area,
                            "iscrowd": crowd, "segmentation": form})
        for _ in range(detections):
            if shapes and rng.random() < 0.8:
                points, label = shapes[int(rng.integers(len(shapes)))]
                spread = rng.choice([0, 0.01, 0.05, 0.15]) * np.ptp(points, 0)
                points = points + rng.normal(0, 1, 2) * spread + rng.normal(0, 0.3, points.shape) * spread
                label = label if rng.random() < 0.85 else int(rng.choice(self.classes))
            else:
                points, label = self.shape(image), int(rng.choice(self.classes))
            if rng.random() < 0.03:
                label = 999  # a class that the annotations do not have
            box, _, form = self.forms(image, points, rng.random() < 0.3)
            score = round(float(rng.random()), 1 if self.options.get("ties") else 6)
            one = {"image_id": image["id"], "category_id": label, "score": score, "bbox": box, "segmentation": form}
            if self.options.get("masks_only"):
                one["segmentation"] = self.compressed(image, form)
                del one["bbox"]
            elif self.options.get("boxes_only") or rng.random() < 0.05:
                del one["segmentation"]
            self.dt.append(one)

    @staticmethod
    def compressed(image, form):
        if isinstance(form, dict) and isinstance(form["counts"], str):
            return form
        encoded = coco_mask.frPyObjects(form, image["height"], image["width"])
        encoded = coco_mask.merge(encoded) if isinstance(encoded, list) else encoded
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}

    def forms(self, image, points, runs):
        """Box, area and segmentation in one of the three forms; what would not be annotated occurs too."""
        rng = self.rng
        points = np.round(points, 2)
        polygons = [points.ravel().tolist()]
        if rng.random() < 0.15:
            polygons.append((points + np.round(rng.normal(0, 10, 2), 2)).ravel().round(2).tolist())
        low, high = points.min(0), points.max(0)
        if self.options.get("grid"):
            low, high = np.round(low / 8) * 8, np.round(high / 8) * 8  # overlaps of exactly a half, and boxes without area
        box = [round(float(x), 2) for x in [*low, *(high - low)]]
        if rng.random() < 0.03:
            box[2] = -box[2]
        rle = self.compressed(image, polygons)
        area = float(coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode()}))
        kind = rng.random()
        if kind < 0.1:
            area = float(rng.choice([0, 1023.999, 1024, 1024.001, 9216, 9217, 1e10, 2e10]))
        if not runs and kind < 0.6:
            return box, area, polygons
        if kind < 0.8:
            return box, area, rle
        pixels = coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).ravel("F")
        changes = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
        counts = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
        return box, area, {"size": rle["size"], "counts": counts}

    def annotations(self):
        return {"info": {"year": 2014, "nothing": [{"of": "use"}]}, "images": self.images,
                "categories": [{"id": c, "name": f"class {c}"} for c in self.classes], "annotations": self.gt}


def evaluate(annotations, results, kind, **params):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(annotations))
        # It takes the id 0 of a match for no match: ids from 1 give the figures that are right.
        ids = [one["id"] for one in gt.dataset["annotations"]]
        if 0 in ids:
            for one in gt.dataset["annotations"]:
                one["id"] += 1 - min(ids)
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(json.loads(json.dumps(results))), kind)
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def expected(annotations, results, kind, **params):
    e = evaluate(annotations, results, kind, **params)
    precision, recall = e.eval["precision"], e.eval["recall"]
    curve = precision[0, :, :, 0, -1]
    with_objects = np.flatnonzero(curve[0] > -1)
    out = {"stats": e.stats.tolist(), "precision_sum": float(precision.sum()), "recall_sum": float(recall.sum())}
    classes = e.params.catIds if e.params.useCats else [-1]
    out["classes"] = [{"id": int(c), "ap": float(precision[:, :, k, 0, -1].mean()), "ar": float(recall[:, k, 0, -1].mean())}
                      for k, c in enumerate(classes)]
    if len(with_objects):
        k = int(with_objects[0])
        out["curve"] = {"id": int(classes[k]), "precision": [round(x, 12) for x in curve[:, k].tolist()]}
    return out


CASES = [
    ("all forms", dict(seed=1)),
    ("ids from 0, equal scores", dict(seed=2, first_id=0, ties=True)),
    ("ids from 0, few objects", dict(seed=3, images=3, objects=2, first_id=0, ties=True)),
    ("grid", dict(seed=4, grid=True, side=64, ties=True)),
    ("masks without boxes", dict(seed=5, masks_only=True)),
    ("boxes without masks", dict(seed=6, boxes_only=True, ties=True)),
    ("ids that are used twice", dict(seed=7, double_ids=True)),
    ("texts as ids of images", dict(seed=8, text_ids=True, images=3)),
    ("crowds only", dict(seed=9, crowds=1, images=3)),
    ("many detections", dict(seed=10, images=1, objects=5, detections=140, classes=2, boxes_only=True)),
    ("no objects", dict(seed=11, objects=0, images=2)),
]


# ---- Pascal VOC


def voc_problem(rng):
    """Corners are multiples of one hundredth, scores have ties."""
    def box(low, high):
        corner = rng.uniform(0, 60, 2)
        return [*corner, *(corner + rng.uniform(low, high, 2))]

    images = []
    for _ in range(12):
        truths = [{"class": int(rng.integers(3)), "bbox": box(5, 40), "difficult": bool(rng.random() < 0.2)}
                  for _ in range(rng.integers(0, 6))]
        found = []
        for _ in range(rng.integers(0, 9)):
            near = truths[int(rng.integers(len(truths)))] if truths and rng.random() < 0.8 else None
            bbox = (np.array(near["bbox"]) + rng.normal(0, 2, 4)).tolist() if near else box(5, 40)
            found.append({"class": near["class"] if near else int(rng.integers(4)), "bbox": bbox,
                          "score": round(float(rng.random()), 1)})
        images.append({"truths": truths, "found": found})
    return json.loads(json.dumps(images), parse_float=lambda x: round(float(x), 2))


def voc_ap(images, label):
    """Both forms, as the development kit goes about it; none without objects."""
    rows = [(d["score"], i, d["bbox"]) for i, image in enumerate(images) for d in image["found"] if d["class"] == label]
    rows.sort(key=lambda row: -row[0])
    truths = [[t for t in image["truths"] if t["class"] == label] for image in images]
    positives = sum(not t["difficult"] for image in truths for t in image)
    if positives == 0:
        return None
    right, wrong, taken = np.zeros(len(rows)), np.zeros(len(rows)), set()
    for row, (_, i, a) in enumerate(rows):
        best, at = -np.inf, None
        for j, t in enumerate(truths[i]):
            b = t["bbox"]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if w > 0 and h > 0:
                both = w * h
                iou = both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
                if iou > best:
                    best, at = iou, j
        if best < 0.5:
            wrong[row] = 1
        elif not truths[i][at]["difficult"]:
            (wrong if (i, at) in taken else right)[row] = 1
            taken.add((i, at))
    right, wrong = right.cumsum(), wrong.cumsum()
    recall, precision = right / positives, right / np.maximum(right + wrong, np.finfo(float).eps)
    eleven = np.mean([max(precision[recall >= t / 10], default=0) for t in range(11)])
    r, p = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    p = np.maximum.accumulate(p[::-1])[::-1]
    return {"eleven": float(eleven), "area": float(np.sum(np.diff(r) * p[1:]))}


def write():
    cases = []
    for name, options in CASES:
        problem = Problem(**options)
        gt, dt = problem.annotations(), problem.dt
        if name in ("many detections", "crowds only"):
            for one in gt["annotations"]:
                one.pop("segmentation")
        kinds = ["bbox"] if "segmentation" not in (gt["annotations"] or [{}])[0] else ["bbox", "segm"]
        case = {"name": name, "gt": gt, "dt": dt}
        for kind in kinds:
            case[kind] = expected(gt, dt, kind)
            case[kind]["one class"] = expected(gt, dt, kind, useCats=0)["stats"]
        cases.append(case)
    params = evaluate(cases[0]["gt"], cases[0]["dt"], "bbox").params
    # As texts, of which no reader rounds the last bit.
    texts = lambda values: [repr(float(value)) for value in values]
    defaults = {"iou": texts(params.iouThrs), "recall": texts(params.recThrs), "areas": params.areaRng}
    voc = []
    for seed in range(3):
        images = voc_problem(np.random.default_rng(seed))
        voc.append({"images": images, "ap": [voc_ap(images, label) for label in range(4)]})
    FIXTURES.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    rest = ",\n".join(f'"{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in {"defaults": defaults, "voc": voc}.items())
    (FIXTURES / "coco.json").write_text('{"cases": [\n' + lines + "],\n" + rest + "}\n")


def compare(count, program):
    worst, runs = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        gt_path, dt_path = Path(folder) / "gt.json", Path(folder) / "dt.json"
        for seed in range(count):
            rng = np.random.default_rng([seed, 5])
            options = {name: bool(rng.random() < 0.3) for name in ["ties", "grid", "double_ids", "text_ids"]}
            options |= {name: bool(rng.random() < 0.15) for name in ["masks_only", "boxes_only"]}
            options |= {"first_id": int(rng.choice([0, 1, -3])), "crowds": float(rng.choice([0, 0.15, 0.6]))}
            size = {"images": int(rng.integers(1, 25)), "objects": int(rng.choice([1, 5, 25])),
                    "detections": int(rng.choice([2, 20, 130])), "classes": int(rng.integers(2, 9)),
                    "side": int(rng.choice([16, 64, 300]))}
            problem = Problem(seed=10_000 + seed, **size, **options)
            if not problem.dt:
                continue
            gt_path.write_text(json.dumps(problem.annotations(), indent=int(rng.integers(0, 3)) or None))
            dt_path.write_text(json.dumps(problem.dt))
            for kind in ["bbox", "segm"]:
                stats = evaluate(problem.annotations(), problem.dt, kind).stats
                flags = ["--gt", gt_path, "--dt", dt_path, "--iou", kind]
                ended = subprocess.run([program, *flags], capture_output=True, text=True)
                assert ended.returncode == 0, (seed, kind, options, ended.stderr)
                ours = json.loads(ended.stdout.splitlines()[-1])["stats"]
                difference = float(np.abs(np.array(ours) - stats).max())
                assert difference < 1e-9, (seed, kind, options, difference, ours, stats.tolist())
                worst, runs = max(worst, difference), runs + 1
    print(f"{runs} evaluations of {count} problems agree; the largest difference is {worst:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int)
    parser.add_argument("--program")
    args = parser.parse_args()
    compare(args.random, args.program) if args.random else write()
