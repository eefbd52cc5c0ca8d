"""What torchvision has published for the networks that segkiln has.

    $PYTHON tests/parity/published.py  # needs torchvision

writes crates/segkiln-models/tests/fixtures/published.json, with which tests/published.rs there compares the table of
src/weights/published/table.rs. Interpolation, sides and classes are null where the weights have none.
"""
import json
import os

from torchvision.models import get_model_weights

NETWORKS = """
    resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d mobilenet_v2 mobilenet_v3_large
    mobilenet_v3_small efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
    convnext_tiny convnext_small fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fasterrcnn_mobilenet_v3_large_fpn
    fasterrcnn_mobilenet_v3_large_320_fpn maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn
    retinanet_resnet50_fpn_v2 fcos_resnet50_fpn
""".split()

lines = []
for network in NETWORKS:
    for weights in get_model_weights(network):
        preset = weights.transforms()
        if hasattr(preset, "mean"):
            assert (preset.mean, preset.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        lines.append({
            "network": network,
            "name": weights.name,
            "url": weights.url,
            "classes": len(weights.meta["categories"]),
            "default": weights is get_model_weights(network).DEFAULT,
            "resize": getattr(preset, "resize_size", [None])[0],
            "crop": getattr(preset, "crop_size", [None])[0],
            "filter": preset.interpolation.value if hasattr(preset, "interpolation") else None,
        })
path = os.path.join(os.path.dirname(__file__), "../../crates/segkiln-models/tests/fixtures/published.json")
with open(path, "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")
