"""Small volumes and their values, by nibabel, pydicom, SimpleITK, SciPy and plain NumPy, for the tests of `segkiln_data::volumes`.

    pip install nibabel numpy pydicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pylibjpeg-rle scipy simpleitk
    python tests/parity/volumes.py

writes crates/segkiln-data/tests/fixtures/volumes and crates/segkiln-metrics/tests/fixtures/volumes.json. With a folder as argument it writes there what nibabel and pydicom read of the
test files that the two packages carry, for

    SEGKILN_VOLUMES=FOLDER cargo test -p segkiln-data --features dicom volumes::tests::packages

which leaves labels there for each fixture; the next time, the script looks at these with nibabel and SimpleITK.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from nibabel.orientations import aff2axcodes
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (CTImageStorage, EnhancedCTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian,
                         DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless)
from scipy import ndimage

FIXTURES = Path(__file__).parents[2] / "crates/segkiln-data/tests/fixtures/volumes"
FIXTURES.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(24)
SHAPE = (5, 6, 4)  # nibabel's order: columns, rows, slices
expected = {}


def numbers(values):
    return [float(f"{x:.8g}") for x in np.asarray(values, float).ravel()]


def volume(array, affine):
    """`array` in nibabel's order; channels behind."""
    channels = np.moveaxis(array.reshape(*array.shape[:3], -1, order="F"), 3, 0)
    return {"size": list(array.shape[2::-1]), "channels": len(channels), "affine": [[float(x) for x in row] for row in affine],
            "codes": "".join(aff2axcodes(affine)), "values": numbers([c.transpose(2, 1, 0) for c in channels])}


def rotation(*angles):
    x, y, z = np.radians(angles)
    turn = lambda a, i, j: np.array([[np.cos(a) if r == c and r in (i, j) else -np.sin(a) if (r, c) == (i, j) else
                                      np.sin(a) if (r, c) == (j, i) else float(r == c) for c in range(3)] for r in range(3)])
    return turn(x, 1, 2) @ turn(y, 0, 2) @ turn(z, 0, 1)


def affine_of(turn, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = origin
    return affine


OBLIQUE = affine_of(rotation(20, -35, 100), [0.7, 1.3, 2.5], [-31.5, 12.25, 7])

# ---- NIfTI


def nifti(name, array, affine=OBLIQUE, kind=nib.Nifti1Image, change=None, header=None):
    image = kind(array, affine, header, dtype=None if header or array.dtype.fields else array.dtype)
    if change:
        change(image.header)
    nib.save(image, FIXTURES / name)
    # As it is read, which is what counts.
    back = nib.load(FIXTURES / name)
    data = back.dataobj[...] if array.dtype.fields else back.get_fdata()
    if array.dtype.fields:
        data = np.stack([data[c] for c in data.dtype.names], -1)
    factor = {"meter": 1000, "micron": 0.001}.get(back.header.get_xyzt_units()[0], 1)
    expected[name] = volume(data, np.diag([factor, factor, factor, 1]) @ back.affine)


integers = rng.integers(0, 100, SHAPE)
for name in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]:
    signed = integers - (0 if name.startswith("u") else 50)
    nifti(f"{name}.nii.gz", (signed / 7 if name.startswith("f") else signed).astype(name))
big = nib.Nifti1Header(endianness=">")
big.set_data_dtype(np.int16)


def scaled(header):
    header.set_slope_inter(0.25, -7)


nifti("big_scaled.nii.gz", integers.astype(">i2"), header=big, change=scaled)
nifti("second_version.nii.gz", integers.astype("f4"), kind=nib.Nifti2Image)
nifti("second_version_big.nii.gz", integers.astype(">u2"), kind=nib.Nifti2Image, header=nib.Nifti2Header(endianness=">"))
nifti("pair.hdr", integers.astype("i2"), kind=nib.Nifti1Pair)
nifti("four_dimensions.nii.gz", rng.normal(size=(5, 6, 4, 3)).astype("f4"))
colors = np.empty(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
for channel in "RGB":
    colors[channel] = rng.integers(0, 256, SHAPE)
nifti("colors.nii.gz", colors)


def qform_only(header):
    header.set_qform(affine_of(rotation(70, 10, -160), [1, 2, -3], [4, 5, 6]), code=1)
    header["sform_code"] = 0


def no_form(header):
    header["sform_code"] = header["qform_code"] = 0
    header["pixdim"][1:4] = 0.5, 2, 3


def two_forms(header):
    header.set_qform(affine_of(np.eye(3), [1, 1, 1], [0, 0, 0]), code=1)


def micrometers(header):
    header.set_xyzt_units("micron", "sec")


def extended(header):
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept as it is"))
    header["descrip"] = b"a description"
    header["aux_file"] = b"other"
    header["cal_max"], header["toffset"] = 99, 0.5
    header.set_intent("t test", (10,), "t")


for change in [qform_only, no_form, two_forms, micrometers, extended]:
    image_affine = None if change in (qform_only, no_form) else OBLIQUE
    nifti(f"{change.__name__}.nii.gz", integers.astype("i2"), image_affine, change=change)

# ---- DICOM


def slice_of(pixels, position, orientation, spacing, syntax=ExplicitVRLittleEndian, **more):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{rng.integers(1 << 30)}"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality, ds.PatientID = "1.2.3.4", "1.2.3", "CT", "nobody"
    ds.ImagePositionPatient = [f"{x:.6f}" for x in position]
    ds.ImageOrientationPatient = [f"{x:.8f}" for x in np.ravel(orientation)]
    ds.PixelSpacing, ds.SliceThickness = spacing, "3"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW"
    for key, value in more.items():
        setattr(ds, key, value)
    return ds


def save(ds, path):
    path.parent.mkdir(exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


turn = rotation(8, 5, 30)
ORIENTATION = turn.T[:2]
NORMAL = np.cross(*ORIENTATION)
START = np.array([-20.0, 30.0, 100.0])
stack = rng.integers(-1000, 1000, (4, 6, 5)).astype("i2")
# The names are in no order of the places, nor are the numbers.
for index, name in enumerate(["c", "a", "d", "b"]):
    ds = slice_of(stack[index], START + 3.5 * index * NORMAL, ORIENTATION, ["1.5", "0.75"], RescaleSlope="2",
                  RescaleIntercept="-24.5", InstanceNumber=7 - index, WindowCenter=["40", "400"], WindowWidth=["80", "1800"],
                  syntax=[ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian][index])
    if index == 1:  # private sequences that are to be passed over, of both kinds of length
        inner = Dataset()
        inner.add_new(0x00091002, "LO", "private")
        ds.add_new(0x00090010, "LO", "SOMEBODY")
        ds.add_new(0x00091001, "SQ", Sequence([inner]))
        ds[0x00091001].is_undefined_length = True
        inner.is_undefined_length_sequence_item = True
    save(ds, FIXTURES / "series" / f"{name}.dcm")
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(FIXTURES / "series")))
image = reader.Execute()


def affine_of_itk(image):
    count = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(count, count)[:3, :3]
    return np.diag([-1, -1, 1, 1]) @ affine_of(direction, image.GetSpacing()[:3], image.GetOrigin()[:3])


expected["series"] = volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine_of_itk(image))


def single(name, pixels, compress=None, **more):
    ds = slice_of(pixels, START, ORIENTATION, ["1.5", "0.75"], **more)
    if compress:
        ds.compress(compress, generate_instance_uid=False)
    save(ds, FIXTURES / f"{name}.dcm")
    back = pydicom.dcmread(FIXTURES / f"{name}.dcm")
    values = back.pixel_array.astype(float)
    if more.get("PhotometricInterpretation") == "MONOCHROME1":
        low = -(1 << back.BitsStored - 1) if back.PixelRepresentation else 0
        values = 2 * low + (1 << back.BitsStored) - 1 - values
    affine = np.diag([-1, -1, 1, 1]) @ affine_of(turn, [0.75, 1.5, 3], START)
    expected[f"{name}.dcm"] = volume(values.reshape(1, *pixels.shape).transpose(2, 1, 0), affine)


twelve = rng.integers(0, 4096, (6, 5)).astype("u2")
single("inverted", twelve, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
# Above the stored bits others may be: of overlays, of old.
single("upper_bits", twelve | 0xA000, BitsStored=12, HighBit=11)
single("rle", stack[0], RLELossless)
single("rle_8", twelve.astype("u1"), RLELossless)
# OpenJPEG wants more pixels.
larger = ndimage.gaussian_filter(rng.normal(size=(32, 32)), 4) * 20000
single("jpeg_2000", np.clip(larger + 2048, 0, 4095).astype("u2"), JPEG2000Lossless, BitsStored=12, HighBit=11)
single("jpeg_2000_signed", larger.astype("i2"), JPEG2000Lossless)

# Lossless JPEG by GDCM, in the file of SimpleITK.
with tempfile.TemporaryDirectory() as folder:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(f"{folder}/jpeg.dcm")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(stack[2][None]))
    packed = pydicom.dcmread(f"{folder}/jpeg.dcm")
    ds = slice_of(stack[2], START, ORIENTATION, ["1.5", "0.75"])
    ds.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    ds.PixelData = packed.PixelData
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    save(ds, FIXTURES / "jpeg_lossless.dcm")
    assert (pydicom.dcmread(FIXTURES / "jpeg_lossless.dcm").pixel_array == stack[2]).all()
    expected["jpeg_lossless.dcm"] = volume(stack[2][None].transpose(2, 1, 0).astype(float), np.array(expected["rle.dcm"]["affine"]))

# Frames with groups of their own, the last frame first.
ds = slice_of(stack[::-1], START, ORIENTATION, ["1.5", "0.75"], NumberOfFrames=4)
for keyword in ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"]:
    delattr(ds, keyword)


def item(**attributes):
    inner = Dataset()
    for key, value in attributes.items():
        setattr(inner, key, value)
    return inner


ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
ds.SharedFunctionalGroupsSequence = [item(
    PlaneOrientationSequence=[item(ImageOrientationPatient=[f"{x:.8f}" for x in ORIENTATION.ravel()])],
    PixelMeasuresSequence=[item(PixelSpacing=["1.5", "0.75"], SliceThickness="3.5")])]
ds.PerFrameFunctionalGroupsSequence = [item(
    PlanePositionSequence=[item(ImagePositionPatient=[f"{x:.6f}" for x in START + 3.5 * index * NORMAL])],
    PixelValueTransformationSequence=[item(RescaleSlope="2", RescaleIntercept="-24.5", RescaleType="HU")])
    for index in (3, 2, 1, 0)]
save(ds, FIXTURES / "frames.dcm")
expected["frames.dcm"] = expected["series"]

# ---- grids: SciPy, and nibabel for directions


def zoom(array, shape, order):
    factors = np.array(shape) / array.shape
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


resampled = []
for shape, target in [((7, 6, 8), (12, 5, 9)), ((3, 10, 12), (9, 10, 6)), ((1, 5, 4), (3, 4, 7)), ((2, 2, 2), (5, 1, 2)),
                      ((9, 10, 8), (11, 13, 5))]:
    array = rng.normal(size=shape) * 100
    noise = [ndimage.gaussian_filter(rng.normal(size=shape), 1) for _ in range(3)]
    labels = np.argmax(noise, 0) * 3
    weights = np.stack([zoom((labels == label).astype(float), target, 1) for label in (0, 3, 6)])
    best = np.sort(weights, 0)
    linear = weights.argmax(0) * 3
    linear[best[-1] - best[-2] < 1e-6] = -1  # either is right
    resampled.append({
        "size": shape, "target": target, "values": numbers(array.astype("f4")), "labels": labels.ravel().tolist(),
        "nearest": numbers(zoom(array.astype("f4"), target, 0)), "linear": numbers(zoom(array.astype("f4").astype(float), target, 1)),
        "cubic": numbers(zoom(array.astype("f4").astype(float), target, 3)),
        "labels_nearest": zoom(labels, target, 0).ravel().tolist(), "labels_linear": linear.ravel().tolist(),
    })
turned = []
for angles, signs in [((20, -35, 100), (1, 1, 1)), ((5, 95, 3), (-1, 1, 1)), ((170, 12, -40), (1, 1, -1)), ((0, 0, 0), (-1, -1, 1)),
                      ((44, 44, 44), (1, 1, 1))]:
    array = rng.integers(0, 1000, SHAPE).astype("f4")
    affine = affine_of(rotation(*angles), np.array([0.7, 1.3, 2.5]) * signs, [3, -4, 5])
    before = nib.Nifti1Image(array, affine)
    after = nib.as_closest_canonical(before)
    turned.append({"before": volume(array, affine), "after": volume(after.get_fdata(), after.affine)})

# ---- intensities

values = rng.normal(60, 40, 1200).astype("f4")
foreground = rng.random(1200) < 0.3
of = values[foreground]
lower, upper = np.percentile(of, [0.5, 99.5])
intensities = {
    "values": numbers(values), "labels": foreground.astype(int).tolist(),
    "statistics": numbers([lower, upper, of.mean(dtype=float), of.std(dtype=float)]),
    "ct": numbers((np.clip(values, lower, upper) - of.mean(dtype=float)) / of.std(dtype=float)),
    "z_score": numbers((values - values.mean(dtype=float)) / values.std(dtype=float)),
}
sections = {"volumes": expected, "resampled": resampled, "turned": turned, "intensities": intensities}
(FIXTURES / "expected.json").write_text(json.dumps(sections, separators=(",", ":")))

# ---- contours in millimeters, as MONAI and medpy have them: erosion by a cross, distances of voxels on the contours


def contours(predicted, target, spacing, tolerance):
    cross = ndimage.generate_binary_structure(3, 1)
    edges = [mask & ~ndimage.binary_erosion(mask, cross) for mask in (predicted, target)]
    total = predicted.sum() + target.sum()
    figures = {"dice": 2 * float((predicted & target).sum()) / float(total) if total else None}
    if all(edge.any() for edge in edges):
        p, t = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
        there, back = t[edges[0]], p[edges[1]]
        both = np.concatenate([there, back])
        figures |= {"hausdorff": both.max(), "hausdorff_95": max(np.percentile(there, 95), np.percentile(back, 95)),
                    "average_symmetric": both.mean(), "surface_dice": float((both <= tolerance).mean())}
    return {"size": predicted.shape, "spacing": spacing, "tolerance": tolerance, "predicted": predicted.astype(int).ravel().tolist(),
            "target": target.astype(int).ravel().tolist(), "expected": figures}


surfaces = []
for shape, sigma, spacing, tolerance in [((8, 9, 10), 1.5, [1.0, 1.0, 1.0], 1.0), ((5, 14, 11), 1, [5.0, 0.7, 0.9], 2.0),
                                         ((1, 9, 8), 1, [2.0, 1.0, 1.0], 1.0)]:
    target = ndimage.gaussian_filter(rng.normal(size=shape), sigma) > 0
    surfaces.append(contours(np.roll(target, 2, 1) ^ (rng.random(shape) < 0.02), target, spacing, tolerance))
METRICS = Path(__file__).parents[2] / "crates/segkiln-metrics/tests/fixtures/volumes.json"
METRICS.write_text(json.dumps(surfaces, separators=(",", ":")))

# ---- the packages' own files

if len(sys.argv) > 1:
    found = {}
    warnings.simplefilter("ignore")
    for path in sorted((Path(nib.__file__).parent / "tests/data").glob("*.nii*")):
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            continue  # surfaces, in the dress of NIfTI-2
        if not np.isfinite(image.get_fdata()).all():
            print(f"{path.name} has NaN, which is refused")
            continue
        found[str(path)] = volume(image.get_fdata().astype("f4"), image.affine)
    for path in sorted((Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm")):
        try:
            ds = pydicom.dcmread(path, force=True)
            if ds.get("SamplesPerPixel") != 1 or "ImagePositionPatient" not in ds or "PixelData" not in ds or ds.BitsAllocated == 1:
                continue
            pixels = ds.pixel_array.astype(float) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        except Exception as error:
            print(f"pydicom does not read {path.name}: {error}")
            continue
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        x, y = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        step = float(ds.get("SpacingBetweenSlices") or ds.get("SliceThickness") or 1)
        if len(pixels) > 1:
            step = float(ds.GridFrameOffsetVector[1]) if "GridFrameOffsetVector" in ds else step
        turn = np.stack([x, y, np.cross(x, y)], 1)
        spacing = [float(ds.PixelSpacing[1]), float(ds.PixelSpacing[0]), step]
        affine = np.diag([-1, -1, 1, 1]) @ affine_of(turn, spacing, np.array(ds.ImagePositionPatient, float))
        found[str(path)] = volume(pixels.transpose(2, 1, 0), affine)
    Path(sys.argv[1], "volumes.json").write_text(json.dumps(found, separators=(",", ":")))
    print(f"{len(found)} files of the packages")
    written = sorted(Path(sys.argv[1], "written").glob("*.nii.gz"))
    for path in written:
        of = expected[path.name.removesuffix(".nii.gz")]
        image = nib.load(path)
        # SimpleITK does not read NIfTI-2, not that of nibabel either.
        itk = None if isinstance(image, nib.Nifti2Image) else sitk.ReadImage(path)
        size = of["size"][::-1]
        labels = np.arange(np.prod(size)).reshape(size[::-1]) % 5
        assert image.shape[:3] == tuple(size) and image.get_data_dtype() == np.uint8, path
        assert (np.asarray(image.dataobj).reshape(size, order="F").transpose(2, 1, 0) == labels).all(), path
        assert not itk or (sitk.GetArrayFromImage(itk).reshape(labels.shape) == labels).all(), path
        factor = 0.001 if image.header.get_xyzt_units()[0] == "micron" else 1
        assert np.allclose(np.diag([factor] * 3 + [1]) @ image.affine, of["affine"], atol=1e-5), path
        # Of two forms, and of none, ITK takes another than nibabel; but the same as of the image.
        source = FIXTURES / path.name.removesuffix(".nii.gz")
        if itk and itk.GetDimension() == 3:
            place = affine_of_itk(sitk.ReadImage(source)) if source.suffix in (".gz", ".hdr") else of["affine"]
            assert np.allclose(affine_of_itk(itk), place, atol=1e-4), (path, affine_of_itk(itk), place)
        if source.suffix == ".gz":
            header = nib.load(source).header
            carried = ["pixdim", "descrip", "aux_file", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
                       "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "toffset"]
            assert all(header[key].tobytes() == image.header[key].tobytes() for key in carried), path
            assert image.header.extensions == header.extensions, path
    print(f"{len(written)} files that were written are what they should be")
