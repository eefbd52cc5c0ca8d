//! The files that torchvision 0.29 has published for the networks of this crate; `tests/parity/published.py` compares.

use segkiln_data::{Filter, Preset};

use super::{Published, TrainingData, Weights};

/// Columns of the table beside the names.
struct Facts(&'static str, TrainingData, Option<Preset>);

const fn image_net(file: &'static str, resize: u32, crop: u32) -> Facts {
    Facts(
        file,
        TrainingData::ImageNet,
        Some(Preset { resize: Some(resize), crop: Some(crop), filter: Filter::Bilinear }),
    )
}

const fn cubic(file: &'static str, resize: u32, crop: u32) -> Facts {
    Facts(
        file,
        TrainingData::ImageNet,
        Some(Preset { resize: Some(resize), crop: Some(crop), filter: Filter::Bicubic }),
    )
}

const fn voc(file: &'static str) -> Facts {
    Facts(file, TrainingData::CocoVoc, Some(Preset { resize: Some(520), crop: None, filter: Filter::Bilinear }))
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
    RetinaNetResNet50FpnWeights of "retinanet_resnet50_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("retinanet_resnet50_fpn_coco-eeacb38b.pth");
    }
    RetinaNetResNet50FpnV2Weights of "retinanet_resnet50_fpn_v2" {
        #[default] CocoV1 "COCO_V1" = coco("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth");
    }
    FcosResNet50FpnWeights of "fcos_resnet50_fpn" {
        #[default] CocoV1 "COCO_V1" = coco("fcos_resnet50_fpn_coco-99b0c9b7.pth");
    }
}

/// The SHA-256 of those files of which more is known than the eight digits that torchvision tells; each begins with them.
pub(super) const DIGESTS: [&str; 33] = [
    "047dcff4addef86ea5bc2eff13c9614dc11f47ab1160d0a71a25e7db994f4e1f",
    "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "0c510722adfd92966a2bd72b92f785ca05966bbac03cafe2f7a90b1f54bfab9a",
    "1167a1affa42e1e62858f8d3fac12d109e0108327ffc91c5855a324b11683c36",
    "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "23ab8bcd5bdbef61a7a43b91adcad81f622fd7f36fb4935a569828d77888c44e",
    "258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384",
    "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
    "586e9e4e203fcbf17e1ad45533d8d33ab133fc762bf03101c5dd743995c08c0d",
    "5c1a416349c4cf298f2a6a5e2600ed0ee55e604713578f5e74e6bc8bcaef7997",
    "6002323d9413ae02f657473d3ecbbd7f86ee496b8a0dc8dc6140a639a0fcf13d",
    "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    "6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
    "73cbd0190fcbe3ba339921fbce2c3a0b6bb9126c9a133c85e43a2a8e060a109e",
    "7ebf99e03e254b273379b23edca7ec0da9f48273b23a332b93c1c99d49e86e8f",
    "7ecb50ca17844860a70d5ed0c748d997cf8adb62932abaa0233430c68594d749",
    "7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
    "8738ca797c879b547d18bbd15da5736ff2557b2036a9af72225393ca61759a04",
    "907ea3f91ff92242bc1baea8049276a3e76bca48ce7560bd268cc029f37977b5",
    "983f1562536e84ff750a1576fb08e54de751dbf2e17c0d8a4a13704341fdcd3d",
    "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    "b3899882250c22946d0229d266049fcd133c169233530b36b9ffa7983988362f",
    "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "bf2d0c1efbc936eeee2bc95a48e80ebc86b891f61b0106485937fc29f9315fc0",
    "c27df63ce6eb17ef8bcea58922fd3a254cba910c720f41ee89d64d99fb7a4ddf",
    "c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
    "cd0a25694c4a0f7106b38f4938bf90a874f2f241cc410b8f63c7024399538f06",
    "cd907fc2a0de2292b2ba2b27d2216bc672d84632d1cf20058d01c0c03b5e020e",
    "d234d4eae9d55d5f76de18b77cf0dc62c66fe5c5482758209d00f950c92bb280",
    "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf",
    "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "fb6a3cc702b1df54c18a44b26708cd083614211062d0c36d2ca7bf9270df3533",
    "fc3c493d68e89cc31ef488c803d5d7dd2f3190fb570598faa49fef69be8e5e70",
];
