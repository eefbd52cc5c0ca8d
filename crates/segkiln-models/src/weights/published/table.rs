//! The files that torchvision 0.29 has published for the networks of this crate; `tests/parity/published.py` compares.

use segkiln_data::{Filter, Preset};

use super::{Published, TrainingData, Weights};

/// What a line of the table says beside the names.
struct Facts(&'static str, TrainingData, Option<Preset>);

const fn image_net(file: &'static str, resize: u32, crop: u32) -> Facts {
    Facts(file, TrainingData::ImageNet, Some(Preset { resize, crop: Some(crop), filter: Filter::Bilinear }))
}

const fn cubic(file: &'static str, resize: u32, crop: u32) -> Facts {
    Facts(file, TrainingData::ImageNet, Some(Preset { resize, crop: Some(crop), filter: Filter::Bicubic }))
}

const fn voc(file: &'static str) -> Facts {
    Facts(file, TrainingData::CocoVoc, Some(Preset { resize: 520, crop: None, filter: Filter::Bilinear }))
}

const fn coco(file: &'static str) -> Facts {
    Facts(file, TrainingData::Coco, None)
}

/// An enum a network, and all lines in one list.
macro_rules! published {
    ($($enum:ident of $network:literal {
        $($(#[$default:ident])? $variant:ident $name:literal = $facts:expr;)+
    })+) => {
        $(
            #[doc = concat!("What is published for `", $network, "`.")]
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
            pub enum $enum {
                $(#[doc = concat!("torchvision's `", $name, "`.")] $(#[$default])? $variant,)+
            }

            impl Weights for $enum {
                fn published(self) -> Published {
                    match self {
                        $(Self::$variant => {
                            let Facts(file, data, preset) = $facts;
                            let is_default = self == Self::default();
                            Published { network: $network, name: $name, file, data, preset, is_default }
                        })+
                    }
                }
            }
        )+

        pub(super) const ALL: &[Published] = &[$($({
            let Facts(file, data, preset) = $facts;
            let is_default = !stringify!($($default)?).is_empty();
            Published { network: $network, name: $name, file, data, preset, is_default }
        },)+)+];
    };
}

published! {
    ResNet18Weights of "resnet18" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnet18-f37072fd.pth", 256, 224);
    }
    ResNet34Weights of "resnet34" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnet34-b627a593.pth", 256, 224);
    }
    ResNet50Weights of "resnet50" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnet50-0676ba61.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("resnet50-11ad3fa6.pth", 232, 224);
    }
    ResNet101Weights of "resnet101" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnet101-63fe2227.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("resnet101-cd907fc2.pth", 232, 224);
    }
    ResNet152Weights of "resnet152" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnet152-394f9c45.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("resnet152-f82ba261.pth", 232, 224);
    }
    ResNeXt5032x4dWeights of "resnext50_32x4d" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnext50_32x4d-7cdf4587.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("resnext50_32x4d-1a0047aa.pth", 232, 224);
    }
    ResNeXt10132x8dWeights of "resnext101_32x8d" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnext101_32x8d-8ba56ff5.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("resnext101_32x8d-110c445d.pth", 232, 224);
    }
    ResNeXt10164x4dWeights of "resnext101_64x4d" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("resnext101_64x4d-173b62eb.pth", 232, 224);
    }
    MobileNetV2Weights of "mobilenet_v2" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("mobilenet_v2-b0353104.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("mobilenet_v2-7ebf99e0.pth", 232, 224);
    }
    MobileNetV3LargeWeights of "mobilenet_v3_large" {
        ImageNet1kV1 "IMAGENET1K_V1" = image_net("mobilenet_v3_large-8738ca79.pth", 256, 224);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("mobilenet_v3_large-5c1a4163.pth", 232, 224);
    }
    MobileNetV3SmallWeights of "mobilenet_v3_small" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("mobilenet_v3_small-047dcff4.pth", 256, 224);
    }
    EfficientNetB0Weights of "efficientnet_b0" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = cubic("efficientnet_b0_rwightman-7f5810bc.pth", 256, 224);
    }
    EfficientNetB1Weights of "efficientnet_b1" {
        ImageNet1kV1 "IMAGENET1K_V1" = cubic("efficientnet_b1_rwightman-bac287d4.pth", 256, 240);
        #[default] ImageNet1kV2 "IMAGENET1K_V2" = image_net("efficientnet_b1-c27df63c.pth", 255, 240);
    }
    EfficientNetB2Weights of "efficientnet_b2" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = cubic("efficientnet_b2_rwightman-c35c1473.pth", 288, 288);
    }
    EfficientNetB3Weights of "efficientnet_b3" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = cubic("efficientnet_b3_rwightman-b3899882.pth", 320, 300);
    }
    EfficientNetB4Weights of "efficientnet_b4" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = cubic("efficientnet_b4_rwightman-23ab8bcd.pth", 384, 380);
    }
    Vgg11BnWeights of "vgg11_bn" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("vgg11_bn-6002323d.pth", 256, 224);
    }
    Vgg13BnWeights of "vgg13_bn" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("vgg13_bn-abd245e5.pth", 256, 224);
    }
    Vgg16BnWeights of "vgg16_bn" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("vgg16_bn-6c64b313.pth", 256, 224);
    }
    Vgg19BnWeights of "vgg19_bn" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("vgg19_bn-c79401a0.pth", 256, 224);
    }
    ConvNeXtTinyWeights of "convnext_tiny" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("convnext_tiny-983f1562.pth", 236, 224);
    }
    ConvNeXtSmallWeights of "convnext_small" {
        #[default] ImageNet1kV1 "IMAGENET1K_V1" = image_net("convnext_small-0c510722.pth", 230, 224);
    }
    FcnResNet50Weights of "fcn_resnet50" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("fcn_resnet50_coco-1167a1af.pth");
    }
    FcnResNet101Weights of "fcn_resnet101" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("fcn_resnet101_coco-7ecb50ca.pth");
    }
    DeepLabV3ResNet50Weights of "deeplabv3_resnet50" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("deeplabv3_resnet50_coco-cd0a2569.pth");
    }
    DeepLabV3ResNet101Weights of "deeplabv3_resnet101" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("deeplabv3_resnet101_coco-586e9e4e.pth");
    }
    DeepLabV3MobileNetV3LargeWeights of "deeplabv3_mobilenet_v3_large" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("deeplabv3_mobilenet_v3_large-fc3c493d.pth");
    }
    LrAsppMobileNetV3LargeWeights of "lraspp_mobilenet_v3_large" {
        #[default] CocoWithVocLabelsV1 "COCO_WITH_VOC_LABELS_V1" = voc("lraspp_mobilenet_v3_large-d234d4ea.pth");
    }
    FasterRcnnResNet50FpnWeights of "fasterrcnn_resnet50_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth");
    }
    FasterRcnnResNet50FpnV2Weights of "fasterrcnn_resnet50_fpn_v2" {
        #[default] CocoV1 "COCO_V1" = coco("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth");
    }
    FasterRcnnMobileNetV3LargeFpnWeights of "fasterrcnn_mobilenet_v3_large_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth");
    }
    FasterRcnnMobileNetV3Large320FpnWeights of "fasterrcnn_mobilenet_v3_large_320_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth");
    }
    MaskRcnnResNet50FpnWeights of "maskrcnn_resnet50_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth");
    }
    MaskRcnnResNet50FpnV2Weights of "maskrcnn_resnet50_fpn_v2" {
        #[default] CocoV1 "COCO_V1" = coco("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth");
    }
}
