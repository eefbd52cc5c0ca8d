//! Backbones that another program brings, behind the types that this crate's decoders and detectors hold.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::{PoisonError, RwLock},
};

use burn::{
    module::{Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param},
    tensor::{Bool, Device, Int, Tensor},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;

use super::{BackboneConfig, BackboneFamily, BackboneNetwork, ClassifierHead, Stages, Variants};
use crate::{
    ConfigError,
    layers::NormConfig,
    precision::{keep_full, keep_reduced_within},
    weights::{OtherNames, TorchNames},
};

/// The families that [`register_backbone`] made known.
static REGISTRY: RwLock<Vec<Entry>> = RwLock::new(Vec::new());

#[derive(Clone, Copy)]
struct Entry {
    family: &'static str,
    config: TypeId,
    /// True for the names of its variants.
    has: fn(&str) -> bool,
    by_name: fn(&str) -> Option<Box<dyn ErasedFamily>>,
    read: fn(Value) -> serde_json::Result<Box<dyn ErasedFamily>>,
    torch_names: TorchNames,
    other_names: OtherNames,
}

fn entries() -> Vec<Entry> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Registers a family of backbones of your own: its [variants](BackboneFamily::VARIANTS) become names that
/// [`BackboneConfig::by_name`] knows, so that every decoder and detector can be built on them (`unet_NAME`, for example), and
/// `config.json` can hold them under the family's name. Register before a network is built or loaded; registering again changes
/// nothing.
///
/// Parameters of the network may have at most six axes.
///
/// # Errors
/// If the family's name is that of another registered family, a variant's name is known already, or a variant has no maps of
/// strides 4, 8, 16 and 32, which decoders need.
pub fn register_backbone<C: BackboneFamily>(family: &'static str) -> Result<(), ConfigError> {
    let refuse = |message: String| Err(ConfigError::with_message("backbone", message));
    for (name, config) in C::VARIANTS {
        config().stages().check(name)?;
    }
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(entry) = registry.iter().find(|entry| entry.family == family) {
        return match entry.config == TypeId::of::<C>() {
            true => Ok(()),
            false => refuse(format!("another family of backbones is registered as {family:?}")),
        };
    }
    let is_known = |name: &str| BackboneConfig::NAMES.contains(&name) || registry.iter().any(|entry| (entry.has)(name));
    if let Some((name, _)) = C::VARIANTS.iter().find(|(name, _)| is_known(name)) {
        return refuse(format!("there is a backbone {name:?} already"));
    }
    registry.push(Entry {
        family,
        config: TypeId::of::<C>(),
        has: |name| C::VARIANTS.iter().any(|(variant, _)| *variant == name),
        by_name: |name| {
            let (_, config) = C::VARIANTS.iter().find(|(variant, _)| *variant == name)?;
            Some(Box::new(config()))
        },
        read: |value| Ok(Box::new(serde_json::from_value::<C>(value)?)),
        torch_names: <C::Network as BackboneNetwork>::TORCH_NAMES,
        other_names: <C::Network as BackboneNetwork>::other_names,
    });
    Ok(())
}

/// Config of the registered variant with this name.
pub(super) fn registered(name: &str) -> Option<CustomBackboneConfig> {
    entries()
        .into_iter()
        .find_map(|Entry { family, by_name, .. }| Some(CustomBackboneConfig { family, config: by_name(name)? }))
}

/// Names of the fields of registered networks in PyTorch's files.
pub(crate) fn torch_names() -> Vec<TorchNames> {
    entries().into_iter().map(|entry| entry.torch_names).collect()
}

/// Config of a registered backbone; see [`register_backbone`].
#[derive(Debug)]
pub struct CustomBackboneConfig {
    family: &'static str,
    config: Box<dyn ErasedFamily>,
}

impl CustomBackboneConfig {
    /// Takes the config of a registered family.
    ///
    /// # Errors
    /// If the family is not registered, or the config has no maps of strides 4, 8, 16 and 32.
    pub fn new<C: BackboneFamily>(config: C) -> Result<Self, ConfigError> {
        let Some(entry) = entries().into_iter().find(|entry| entry.config == TypeId::of::<C>()) else {
            let message = format!("{config:?} is of no registered family; call register_backbone first");
            return Err(ConfigError::with_message("backbone", message));
        };
        config.stages().check(entry.family)?;
        Ok(Self { family: entry.family, config: Box::new(config) })
    }

    fn changed(self, change: Change<'_>) -> Self {
        Self { config: self.config.changed(change), ..self }
    }
}

impl Clone for CustomBackboneConfig {
    fn clone(&self) -> Self {
        Self { family: self.family, config: self.config.cloned() }
    }
}

/// Form in files.
#[derive(Serialize, Deserialize)]
struct InFile<F> {
    family: F,
    config: Value,
}

impl Serialize for CustomBackboneConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let config = self.config.to_json().map_err(ser::Error::custom)?;
        InFile { family: self.family, config }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CustomBackboneConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let InFile::<String> { family, config } = InFile::deserialize(deserializer)?;
        let Some(entry) = entries().into_iter().find(|entry| entry.family == family) else {
            let message = format!("the backbone family {family:?} is another program's; call register_backbone first");
            return Err(de::Error::custom(message));
        };
        let config = (entry.read)(config).map_err(de::Error::custom)?;
        config.stages().check(entry.family).map_err(de::Error::custom)?;
        Ok(Self { family: entry.family, config })
    }
}

impl BackboneFamily for CustomBackboneConfig {
    type Network = CustomBackbone;

    const VARIANTS: Variants<Self> = &[];

    fn stages(&self) -> Stages {
        self.config.stages()
    }

    fn in_channels(&self) -> usize {
        self.config.in_channels()
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        self.changed(Change::InChannels(in_channels))
    }

    fn norm(&self) -> Option<&NormConfig> {
        self.config.norm()
    }

    fn with_norm(self, norm: NormConfig) -> Self {
        self.changed(Change::Norm(norm))
    }

    fn with_output_stride(self, stride: usize) -> Self {
        self.changed(Change::OutputStride(stride))
    }

    fn with_torchvision_dilation(self) -> Self {
        self.changed(Change::TorchvisionDilation)
    }

    fn with_timm_layout(self) -> Self {
        self.changed(Change::TimmLayout)
    }

    fn with_encoder_layout(self, name: &str) -> Self {
        self.changed(Change::EncoderLayout(name))
    }

    fn min_proposal_score(&self) -> f32 {
        self.config.min_proposal_score()
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.config.check()
    }

    fn most_parameters(&self) -> u128 {
        self.config.most_parameters()
    }

    fn hidden_channels(&self) -> Vec<usize> {
        self.config.hidden_channels()
    }

    fn init(&self, device: &Device) -> CustomBackbone {
        CustomBackbone(self.config.init(device))
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        self.config.classifier_head(classes, device)
    }
}

/// A change of a config, one for each `with_…` of [`BackboneFamily`].
enum Change<'a> {
    InChannels(usize),
    Norm(NormConfig),
    OutputStride(usize),
    TorchvisionDilation,
    TimmLayout,
    EncoderLayout(&'a str),
}

/// [`BackboneFamily`] without its type.
trait ErasedFamily: fmt::Debug + Send + Sync {
    fn cloned(&self) -> Box<dyn ErasedFamily>;
    fn changed(&self, change: Change<'_>) -> Box<dyn ErasedFamily>;
    fn to_json(&self) -> serde_json::Result<Value>;
    fn stages(&self) -> Stages;
    fn in_channels(&self) -> usize;
    fn norm(&self) -> Option<&NormConfig>;
    fn min_proposal_score(&self) -> f32;
    fn check(&self) -> Result<(), ConfigError>;
    fn most_parameters(&self) -> u128;
    fn hidden_channels(&self) -> Vec<usize>;
    fn init(&self, device: &Device) -> Box<dyn ErasedNetwork>;
    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead;
}

impl<C: BackboneFamily> ErasedFamily for C {
    fn cloned(&self) -> Box<dyn ErasedFamily> {
        Box::new(self.clone())
    }

    fn changed(&self, change: Change<'_>) -> Box<dyn ErasedFamily> {
        let config = self.clone();
        Box::new(match change {
            Change::InChannels(channels) => config.with_in_channels(channels),
            Change::Norm(norm) => config.with_norm(norm),
            Change::OutputStride(stride) => config.with_output_stride(stride),
            Change::TorchvisionDilation => config.with_torchvision_dilation(),
            Change::TimmLayout => config.with_timm_layout(),
            Change::EncoderLayout(name) => config.with_encoder_layout(name),
        })
    }

    fn to_json(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }

    fn stages(&self) -> Stages {
        BackboneFamily::stages(self)
    }

    fn in_channels(&self) -> usize {
        BackboneFamily::in_channels(self)
    }

    fn norm(&self) -> Option<&NormConfig> {
        BackboneFamily::norm(self)
    }

    fn min_proposal_score(&self) -> f32 {
        BackboneFamily::min_proposal_score(self)
    }

    fn check(&self) -> Result<(), ConfigError> {
        BackboneFamily::check(self)
    }

    fn most_parameters(&self) -> u128 {
        BackboneFamily::most_parameters(self)
    }

    fn hidden_channels(&self) -> Vec<usize> {
        BackboneFamily::hidden_channels(self)
    }

    fn init(&self, device: &Device) -> Box<dyn ErasedNetwork> {
        Box::new(BackboneFamily::init(self, device))
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        BackboneFamily::classifier_head(self, classes, device)
    }
}

/// A registered backbone; see [`register_backbone`].
#[derive(Debug)]
pub struct CustomBackbone(Box<dyn ErasedNetwork>);

impl Clone for CustomBackbone {
    fn clone(&self) -> Self {
        Self(self.0.cloned())
    }
}

impl BackboneNetwork for CustomBackbone {
    fn other_names(names: &[&str]) -> Vec<(String, String)> {
        entries().into_iter().flat_map(|entry| (entry.other_names)(names)).collect()
    }

    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        self.0.forward(x, stages)
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        Self(self.0.freeze_stages(trainable))
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        self.0.torch_names_after(stage)
    }

    fn misfit(&self, contents: &[(String, Vec<usize>)]) -> Option<&'static str> {
        self.0.misfit(contents)
    }
}

impl Module for CustomBackbone {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device(device))
    }

    fn train(self) -> Self {
        Self(self.0.train())
    }

    fn valid(&self) -> Self {
        Self(self.0.valid())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        self.0.visit(visitor);
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        Self(self.0.map(mapper))
    }
}

impl ModuleDisplayDefault for CustomBackbone {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
}

impl ModuleDisplay for CustomBackbone {}

impl fmt::Display for CustomBackbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(Default::default()))
    }
}

/// [`BackboneNetwork`] without its type.
trait ErasedNetwork: fmt::Debug + Send + Sync {
    fn cloned(&self) -> Box<dyn ErasedNetwork>;
    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>>;
    fn freeze_stages(self: Box<Self>, trainable: usize) -> Box<dyn ErasedNetwork>;
    fn torch_names_after(&self, stage: usize) -> Vec<String>;
    fn misfit(&self, contents: &[(String, Vec<usize>)]) -> Option<&'static str>;
    fn collect_devices(&self, devices: Devices) -> Devices;
    fn fork(self: Box<Self>, device: &Device) -> Box<dyn ErasedNetwork>;
    fn to_device(self: Box<Self>, device: &Device) -> Box<dyn ErasedNetwork>;
    fn train(self: Box<Self>) -> Box<dyn ErasedNetwork>;
    fn valid(&self) -> Box<dyn ErasedNetwork>;
    fn materialize(self: Box<Self>) -> Box<dyn ErasedNetwork>;
    fn visit(&self, visitor: &mut dyn ErasedVisitor);
    fn map(self: Box<Self>, mapper: &mut dyn ErasedMapper) -> Box<dyn ErasedNetwork>;
    fn content(&self, content: Content) -> Option<Content>;
}

impl<N: BackboneNetwork> ErasedNetwork for N {
    fn cloned(&self) -> Box<dyn ErasedNetwork> {
        Box::new(self.clone())
    }

    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        match N::KEEPS_REDUCED_MAPS {
            true => keep_reduced_within(|| BackboneNetwork::forward(self, x, stages)),
            false => keep_full(|| BackboneNetwork::forward(self, x, stages)),
        }
    }

    fn freeze_stages(self: Box<Self>, trainable: usize) -> Box<dyn ErasedNetwork> {
        Box::new(BackboneNetwork::freeze_stages(*self, trainable))
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        BackboneNetwork::torch_names_after(self, stage)
    }

    fn misfit(&self, contents: &[(String, Vec<usize>)]) -> Option<&'static str> {
        BackboneNetwork::misfit(self, contents)
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        Module::collect_devices(self, devices)
    }

    fn fork(self: Box<Self>, device: &Device) -> Box<dyn ErasedNetwork> {
        Box::new(Module::fork(*self, device))
    }

    fn to_device(self: Box<Self>, device: &Device) -> Box<dyn ErasedNetwork> {
        Box::new(Module::to_device(*self, device))
    }

    fn train(self: Box<Self>) -> Box<dyn ErasedNetwork> {
        Box::new(Module::train(*self))
    }

    fn valid(&self) -> Box<dyn ErasedNetwork> {
        Box::new(Module::valid(self))
    }

    fn materialize(self: Box<Self>) -> Box<dyn ErasedNetwork> {
        Box::new(Module::materialize(*self))
    }

    fn visit(&self, visitor: &mut dyn ErasedVisitor) {
        Module::visit(self, &mut TypedVisitor(visitor));
    }

    fn map(self: Box<Self>, mapper: &mut dyn ErasedMapper) -> Box<dyn ErasedNetwork> {
        Box::new(Module::map(*self, &mut TypedMapper(mapper)))
    }

    fn content(&self, content: Content) -> Option<Content> {
        ModuleDisplayDefault::content(self, content)
    }
}

/// [`ModuleVisitor`] without its type; a parameter is a `Param` of a tensor of any rank and kind, or of a [`Flag`].
trait ErasedVisitor {
    fn param(&mut self, param: &dyn Any);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// [`ModuleMapper`] without its type; parameters keep their types.
trait ErasedMapper {
    fn param(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// Message of the panic at a parameter of more axes.
const RANK: &str = "a parameter of a registered backbone has at most six axes";

impl<V: ModuleVisitor> ErasedVisitor for V {
    fn param(&mut self, param: &dyn Any) {
        macro_rules! visit {
            ($($rank:literal)+) => {$(
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank>>>() {
                    return self.visit_float(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Int>>>() {
                    return self.visit_int(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Bool>>>() {
                    return self.visit_bool(param);
                }
            )+};
        }
        visit!(1 2 3 4 5 6);
        self.visit_flag(param.downcast_ref().expect(RANK));
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.exit_module(name, container);
    }
}

impl<M: ModuleMapper> ErasedMapper for M {
    fn param(&mut self, mut param: Box<dyn Any>) -> Box<dyn Any> {
        macro_rules! map {
            ($kind:ty, $map:ident) => {
                match param.downcast::<Param<$kind>>() {
                    Ok(param) => return Box::new(self.$map(*param)),
                    Err(other) => param = other,
                }
            };
            ($($rank:literal)+) => {$(
                map!(Tensor<$rank>, map_float);
                map!(Tensor<$rank, Int>, map_int);
                map!(Tensor<$rank, Bool>, map_bool);
            )+};
        }
        map!(1 2 3 4 5 6);
        Box::new(self.map_flag(*param.downcast().expect(RANK)))
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.exit_module(name, container);
    }
}

struct TypedVisitor<'a>(&'a mut dyn ErasedVisitor);

impl ModuleVisitor for TypedVisitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.param(param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.param(param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.param(param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.param(flag);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

struct TypedMapper<'a>(&'a mut dyn ErasedMapper);

impl TypedMapper<'_> {
    fn map<P: Any>(&mut self, param: P) -> P {
        *self.0.param(Box::new(param)).downcast().expect("a parameter keeps its type")
    }
}

impl ModuleMapper for TypedMapper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.map(param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.map(param)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.map(param)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.map(flag)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}
