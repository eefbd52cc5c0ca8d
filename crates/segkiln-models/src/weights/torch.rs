//! Files of PyTorch's libraries: `.pth` of any age, and `.safetensors`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Bytes, Device, Shape, Tensor, TensorData},
};
use safetensors::tensor::TensorView;
use segkiln_data::write_whole;

use super::{
    AnyParam, Mismatch, WeightsError,
    aliases::aliases,
    peel,
    source::{Source, Stored},
};
use crate::backbones::{BackboneConfig, smp};

/// Loads weights under torchvision's names into this module: from a `.pth` (a state dict, or a checkpoint that holds one), a
/// `.safetensors`, found by its content, or the `.index.json` of either in shards.
///
/// Prefixes that checkpoints and wrappers put before names are removed in turn: `state_dict`, `model`, `module`, `model_state`,
/// `net`, `ema`, `_orig_mod`, and the name of a Lightning module's only network. The states of optimizers and schedules are
/// left out.
///
/// Names that torchvision gave its tensors in earlier years are understood, and those of timm and
/// segmentation_models_pytorch for ResNet, MobileNetV3, EfficientNet and ConvNeXt.
///
/// # Errors
/// [`WeightsError::Read`], [`WeightsError::Mismatch`] naming the tensors if the file is not of this network, or
/// [`WeightsError::NotFinite`].
pub fn load_torch<M: Module>(module: M, path: &Path) -> Result<M, WeightsError> {
    load_torch_but(module, path, Exceptions::default())
}

/// Differences that are accepted between a file and the network; names are prefixes of torchvision's names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exceptions<'a> {
    /// Tensors of the file that may be left over: a classifier, of which only the backbone is wanted.
    pub spare: &'a [&'a str],
    /// Tensors of the network that the file may lack, and that keep their values then.
    pub absent: &'a [&'a str],
    /// Tensors of the network that keep their values where the file's have another shape: heads for other classes.
    pub kept: &'a [&'a str],
    /// Whether the first convolution may take another number of channels than the file's. As in
    /// segmentation_models_pytorch, a single channel's weights are the sum of the file's; more channels have the file's over
    /// and over, scaled so that the sum stays.
    pub channels: bool,
    /// Names of fields of the module's own structs; see
    /// [`SegmentationNetwork::TORCH_NAMES`](crate::SegmentationNetwork::TORCH_NAMES).
    pub names: TorchNames,
}

/// [`load_torch`] with exceptions.
///
/// # Errors
/// As [`load_torch`].
pub fn load_torch_but<M: Module>(module: M, path: &Path, exceptions: Exceptions<'_>) -> Result<M, WeightsError> {
    let begins = |name: &str, with: &[&str]| with.iter().any(|begin| name.starts_with(begin));
    let unreadable = |reason: String| WeightsError::Read { path: path.into(), reason };
    let expected = expected(&module, exceptions.names);
    let file = Source::open(path).map_err(unreadable)?;
    let like = peel::looks_like(file.0.keys().map(String::as_str));
    let (mut file, peeled) = named(file, &expected);
    let mut mismatch = Mismatch::default();
    let mut values = HashMap::with_capacity(expected.len());
    for Expected { name, shape } in expected {
        match file.remove(&name) {
            None if begins(&name, exceptions.absent) => {}
            None => mismatch.missing.push(name),
            Some(stored) if exceptions.channels && values.is_empty() && other_channels(&stored.shape, &shape) => {
                values.insert(name, Stored { channels: Some(shape[1]), ..stored });
            }
            Some(stored) if !same_but_ones(&stored.shape, &shape) => {
                if !begins(&name, exceptions.kept) {
                    mismatch.shapes.push((name, shape, stored.shape));
                }
            }
            Some(stored) => {
                values.insert(name, Stored { shape, ..stored });
            }
        }
    }
    mismatch.unexpected = file.into_keys().filter(|name| !begins(name, exceptions.spare)).collect();
    if !mismatch.is_empty() {
        let peeled = (!peeled.is_empty()).then(|| format!("the file's names are those after {peeled:?}"));
        let like = like.filter(|_| values.is_empty()).map(|like| format!("the names look like those of {like}"));
        let remark: Vec<String> = peeled.into_iter().chain(like).collect();
        mismatch.remark = (!remark.is_empty()).then(|| remark.join("; ").into());
        return Err(WeightsError::Mismatch { path: path.into(), mismatch });
    }
    if !peeled.is_empty() {
        log::info!(target: "segkiln::weights", "{}: its tensors are those after {peeled:?}", path.display());
    }
    let device = module.devices().first().cloned().unwrap_or_default();
    let mut mapper = Fill { names: Names::new(exceptions.names), values, device, error: None, not_finite: None };
    let module = module.map(&mut mapper);
    match (mapper.error, mapper.not_finite) {
        (Some(reason), _) => Err(unreadable(reason)),
        (None, Some(tensor)) => Err(WeightsError::NotFinite { path: path.into(), tensor }),
        (None, None) => Ok(module),
    }
}

/// The names that torchvision has for this module's tensors, and their shapes there, in the module's order.
pub fn torch_shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    torch_shapes_named(module, &[])
}

/// [`torch_shapes`] of a module with fields of its own names.
pub(crate) fn torch_shapes_named<M: Module>(module: &M, names: TorchNames) -> Vec<(String, Vec<usize>)> {
    expected(module, names).into_iter().map(|Expected { name, shape }| (name, shape)).collect()
}

/// The names and shapes of the tensors in a file, as they are there.
///
/// # Errors
/// [`WeightsError::Read`].
pub fn torch_contents(path: &Path) -> Result<Vec<(String, Vec<usize>)>, WeightsError> {
    let file = Source::open(path).map_err(|reason| WeightsError::Read { path: path.into(), reason })?;
    Ok(file.0.into_iter().map(|(name, stored)| (name, stored.shape)).collect())
}

/// The name of the network that a file of PyTorch's is of, which is called `name` but for what the names of its tensors tell:
/// segmentation_models_pytorch's `efficientnet-b0` to `b4` have TensorFlow's padding, which no tensor shows, and its
/// encoders of timm, `tu-`, have timm's dilations and epsilon.
///
/// # Errors
/// [`WeightsError::Read`].
pub fn torch_network(name: &str, path: &Path) -> Result<String, WeightsError> {
    let Some((decoder, backbone)) = name.split_once('_') else { return Ok(name.into()) };
    let contents = torch_contents(path)?;
    let of = |backbone| smp::of_tensors(backbone, contents.iter().map(|(tensor, _)| tensor.as_str()));
    // A classifier has no decoder.
    Ok(match (BackboneConfig::by_name(name).ok(), of(name), of(backbone)) {
        (Some(_), found, _) => found.unwrap_or_else(|| name.into()),
        (None, _, Some(backbone)) => format!("{decoder}_{backbone}"),
        _ => name.into(),
    })
}

/// Writes the weights of `module` as `.safetensors` under PyTorch's names, so that torchvision or
/// segmentation_models_pytorch loads them: `model.load_state_dict(safetensors.torch.load_file(path))`. Encoders that
/// segmentation_models_pytorch takes from elsewhere, EfficientNet and ConvNeXt, have torchvision's names.
///
/// # Errors
/// [`WeightsError::Write`]; what was there before is untouched.
pub fn save_torch<M: Module>(module: &M, path: &Path) -> Result<(), WeightsError> {
    save_torch_named(module, &[], path)
}

/// [`save_torch`] of a module with fields of its own names.
pub(crate) fn save_torch_named<M: Module>(module: &M, names: TorchNames, path: &Path) -> Result<(), WeightsError> {
    let tensors = visit(module, names, |param| param.data()).into_iter().map(|(name, transposed, data)| {
        let data =
            if transposed { Tensor::<2>::from_data(data, &Device::default()).transpose().into_data() } else { data };
        (name, data)
    });
    save_safetensors(tensors.collect(), path)
}

/// Writes tensors as 32-bit floats to a `.safetensors` file.
///
/// # Errors
/// [`WeightsError::Write`]; what was there before is untouched.
pub fn save_safetensors(tensors: Vec<(String, TensorData)>, path: &Path) -> Result<(), WeightsError> {
    let failed = |reason: String| WeightsError::Write { path: path.into(), reason };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            (name, shape, data.iter::<f32>().flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
    });
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    let file = safetensors::serialize(views, None).map_err(|error| failed(error.to_string()))?;
    write_whole(path, &file).map_err(|error| failed(error.to_string()))
}

/// A tensor of the network, by torchvision's name.
struct Expected {
    name: String,
    shape: Vec<usize>,
}

fn expected<M: Module>(module: &M, names: TorchNames) -> Vec<Expected> {
    let shapes = visit(module, names, |param| param.shape()).into_iter();
    shapes
        .map(|(name, transposed, mut shape)| {
            if transposed {
                shape.reverse();
            }
            Expected { name, shape }
        })
        .collect()
}

/// Applies `read` to every parameter and running statistic; returns PyTorch's name, whether its two axes are the other way
/// round there, and the result, in the module's order.
fn visit<M: Module, T>(module: &M, names: TorchNames, read: impl Fn(&dyn AnyParam) -> T) -> Vec<(String, bool, T)> {
    struct Visitor<T, F> {
        names: Names,
        read: F,
        found: Vec<(String, bool, T)>,
    }
    impl<T, F: Fn(&dyn AnyParam) -> T> ModuleVisitor for Visitor<T, F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.names.enter(name, container);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.names.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push((self.names.path(), self.names.transposed(), (self.read)(param)));
        }
    }
    let mut visitor = Visitor { names: Names::new(names), read, found: Vec::new() };
    module.visit(&mut visitor);
    visitor.found
}

/// Name of a module's field in PyTorch's files, where it is not the field's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchName {
    /// Another name, which may have dots: `Is("head.0")`.
    Is(&'static str),
    /// No name: the names of the field's own fields follow directly.
    Flat,
    /// Another name, or none where it is empty, and the numbers of the field's layers are counted from this one.
    From(&'static str, usize),
    /// Another name of a backbone, whose layers follow directly, without their list's name `features`.
    Layers(&'static str),
    /// Another name of a list, whose numbers have these letters before them.
    Lettered(&'static str, &'static str),
    /// Another name of a list of lists; the element at `[column][row]` is `x_row_column`.
    Grid(&'static str),
}

/// Names of modules' fields in PyTorch's files: the module's type, the field, the name there.
pub type TorchNames = &'static [(&'static str, &'static str, TorchName)];

/// Names of the fields of this crate's modules.
fn tables() -> impl Iterator<Item = TorchNames> {
    let parts = [crate::layers::TORCH_NAMES, crate::detection::TORCH_NAMES];
    let lists = [crate::backbones::TORCH_NAMES, crate::segmentation::TORCH_NAMES];
    parts.into_iter().chain(lists.into_iter().flatten().copied()).chain(crate::backbones::custom_torch_names())
}

/// PyTorch's names of the modules that a visitor is in.
struct Names {
    path: Vec<Segment>,
    /// Field names of modules outside this crate.
    own: TorchNames,
}

/// A module that a visitor is in.
#[derive(Default)]
struct Segment {
    /// Name in PyTorch; None where it has none.
    name: Option<String>,
    /// Offset of its fields' numbers.
    start: usize,
    /// Prefix of its fields' numbers.
    letter: &'static str,
    /// Whether a field `features` is left out.
    layers: bool,
    /// Column within a grid; `Some(None)` for the grid itself.
    grid: Option<Option<String>>,
    /// Whether PyTorch has the tensor's two axes the other way round.
    transposed: bool,
}

impl Names {
    fn new(own: TorchNames) -> Self {
        Self { path: Vec::new(), own }
    }

    fn enter(&mut self, name: &str, container: &str) {
        let parent = self.path.last();
        // The variants of an enum stand for the enum.
        if container.starts_with("Enum:") {
            let (start, layers) = parent.map_or((0, false), |parent| (parent.start, parent.layers));
            self.path.push(Segment { start, layers, ..Segment::default() });
            return;
        }
        match parent.and_then(|parent| parent.grid.as_ref()) {
            Some(None) => return self.path.push(Segment { grid: Some(Some(name.into())), ..Segment::default() }),
            Some(Some(column)) => {
                let name = Some(format!("x_{name}_{column}"));
                return self.path.push(Segment { name, ..Segment::default() });
            }
            None => {}
        }
        let module = container.strip_prefix("Struct:").unwrap_or(container);
        let mut tables = std::iter::once(self.own).chain(tables()).flatten();
        let entry = tables.find(|(in_module, field, _)| (*in_module, *field) == (module, name));
        let mut segment = match (entry, name) {
            (Some((_, _, TorchName::Flat)), _) => Segment::default(),
            (Some((_, _, TorchName::Is(name))), _) => Segment { name: Some((*name).into()), ..Segment::default() },
            (Some((_, _, TorchName::From(name, start))), _) => {
                let name = (!name.is_empty()).then(|| (*name).into());
                Segment { name, start: *start, ..Segment::default() }
            }
            (Some((_, _, TorchName::Layers(name))), _) => {
                Segment { name: Some((*name).into()), layers: true, ..Segment::default() }
            }
            (Some((_, _, TorchName::Lettered(name, letter))), _) => {
                Segment { name: Some((*name).into()), letter, ..Segment::default() }
            }
            (Some((_, _, TorchName::Grid(name))), _) => {
                Segment { name: Some((*name).into()), grid: Some(None), ..Segment::default() }
            }
            (None, "features") if parent.is_some_and(|parent| parent.layers) => Segment::default(),
            (None, "gamma") => Segment { name: Some("weight".into()), ..Segment::default() },
            (None, "beta") => Segment { name: Some("bias".into()), ..Segment::default() },
            (None, name) => Segment { name: Some(name.into()), ..Segment::default() },
        };
        if let (Some(name), Some(start)) = (&mut segment.name, parent.map(|parent| parent.start)) {
            let (number, rest) = name.split_once('.').map_or((&**name, None), |(number, rest)| (number, Some(rest)));
            if let (Ok(number), true) = (number.parse::<usize>(), start > 0) {
                let rest = rest.map(|rest| format!(".{rest}")).unwrap_or_default();
                *name = format!("{}{rest}", number + start);
            }
        }
        if let (Some(name), Some(letter)) = (&mut segment.name, parent.map(|parent| parent.letter)) {
            name.insert_str(0, letter);
        }
        segment.transposed = module == "Linear" && name == "weight";
        self.path.push(segment);
    }

    fn exit(&mut self) {
        self.path.pop();
    }

    fn path(&self) -> String {
        self.path.iter().filter_map(|segment| segment.name.as_deref()).collect::<Vec<_>>().join(".")
    }

    fn transposed(&self) -> bool {
        self.path.last().is_some_and(|segment| segment.transposed)
    }
}

/// The file's tensors by today's names, without what a checkpoint has around them; and the prefix that they had there.
fn named(file: Source, expected: &[Expected]) -> (BTreeMap<String, Stored>, String) {
    let known: HashSet<&str> = expected.iter().map(|expected| expected.name.as_str()).collect();
    let aliases = aliases(known.iter().copied());
    let today = |name: &str| {
        let name = name.replace("_orig_mod.", "");
        aliases.get(&name).cloned().unwrap_or(name)
    };
    let prefix = peel::prefix(file.0.keys().map(String::as_str), |name| known.contains(today(name).as_str()));
    // segmentation_models_pytorch's UNet++ has empty ones where the encoder has no map.
    let tensors = file.0.into_iter().filter(|(_, tensor)| !tensor.shape.contains(&0));
    let names = tensors.filter_map(|(name, tensor)| Some((today(name.strip_prefix(prefix.as_str())?), tensor)));
    let is_spare =
        |name: &str| name.ends_with(".num_batches_tracked") || (!known.contains(name) && peel::is_beside(name));
    (names.filter(|(name, _)| !is_spare(name)).collect(), prefix)
}

/// Puts values into a module.
struct Fill {
    names: Names,
    values: HashMap<String, Stored>,
    device: Device,
    /// The first thing that went wrong.
    error: Option<String>,
    /// The first tensor with a NaN or an infinity.
    not_finite: Option<String>,
}

impl Fill {
    fn data(stored: Stored) -> Result<TensorData, String> {
        let bytes = Bytes::from_bytes_vec((stored.read)()?);
        let data = TensorData::try_from_bytes(bytes, Shape::from(stored.shape), stored.dtype);
        let data = data.map_err(|error| error.to_string())?.convert::<f32>();
        Ok(match stored.channels {
            Some(channels) => with_channels(&data, channels),
            None => data,
        })
    }
}

/// Whether two shapes differ at most in last axes of one, which timm's layer scales have not.
fn same_but_ones(a: &[usize], b: &[usize]) -> bool {
    let length = |shape: &[usize]| shape.iter().rposition(|side| *side != 1).map_or(0, |last| last + 1);
    a[..length(a)] == b[..length(b)]
}

/// Whether two shapes are of convolutions that differ in the input's channels alone.
fn other_channels(a: &[usize], b: &[usize]) -> bool {
    matches!((a, b), ([a, from, ah, aw], [b, to, bh, bw]) if (a, ah, aw) == (b, bh, bw) && from != to && *from > 0)
}

/// A convolution's weights `[out, in, height, width]` for another number of input channels.
fn with_channels(data: &TensorData, channels: usize) -> TensorData {
    let shape: Vec<usize> = data.shape().to_vec();
    let (from, taps) = (shape[1], shape[2] * shape[3]);
    let old: Vec<f32> = data.iter().collect();
    let mut new = Vec::with_capacity(shape[0] * channels * taps);
    for filter in old.chunks_exact(from * taps) {
        if channels == 1 {
            new.extend((0..taps).map(|tap| filter.iter().skip(tap).step_by(taps).sum::<f32>()));
            continue;
        }
        let scale = from as f32 / channels as f32;
        for channel in 0..channels {
            let at = channel % from * taps;
            new.extend(filter[at..at + taps].iter().map(|weight| weight * scale));
        }
    }
    TensorData::new(new, [shape[0], channels, shape[2], shape[3]])
}

impl ModuleMapper for Fill {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.names.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.names.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.path();
        let Some(stored) = self.values.remove(&name) else { return param };
        match Self::data(stored) {
            Ok(data) => {
                if !data.iter::<f32>().all(f32::is_finite) {
                    self.not_finite.get_or_insert(name);
                }
                let mut tensor = Tensor::<D>::from_data(data, &self.device);
                if self.names.transposed() {
                    // Through the host, so that the values lie in the order of the new shape.
                    tensor = Tensor::from_data(tensor.transpose().into_data(), &self.device);
                }
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(reason) => {
                self.error.get_or_insert(format!("{name}: {reason}"));
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_channels_keep_the_sum() {
        // Two filters of three channels and two taps.
        let data = TensorData::new((0..12).map(|value| value as f32).collect(), [2, 3, 1, 2]);
        let to = |channels| with_channels(&data, channels).try_to_vec::<f32>().unwrap();
        assert_eq!(to(1), [0.0 + 2.0 + 4.0, 1.0 + 3.0 + 5.0, 6.0 + 8.0 + 10.0, 7.0 + 9.0 + 11.0]);
        let four = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0].map(|value| value * 0.75);
        assert_eq!(to(4)[..8], four);
        assert!(other_channels(&[2, 3, 1, 2], &[2, 4, 1, 2]) && !other_channels(&[2, 3, 1, 2], &[4, 4, 1, 2]));
    }

    #[test]
    fn tensors_after_wrappers_are_found_and_others_said_to_be_after_them() {
        use crate::unet::UNetConfig;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrapped.safetensors");
        let device = Device::default();
        let network = || UNetConfig::new(1, 2).with_base(2).with_depth(1).init(&device);
        let tensors = || visit(&network(), &[], |param| param.data()).into_iter().map(|(name, _, data)| (name, data));
        let save = |wrapper: &str, change: fn(String, TensorData) -> (String, TensorData)| {
            let wrapped = tensors().map(|(name, data)| change(format!("{wrapper}{name}"), data));
            let beside = ("optimizer.state.0.exp_avg".to_owned(), TensorData::from([1.0f32]));
            save_safetensors(wrapped.chain([beside]).collect(), &path).unwrap();
            load_torch(network(), &path)
        };
        for wrapper in ["", "module.", "state_dict.net.", "model_state._orig_mod.module."] {
            save(wrapper, |name, data| (name, data)).unwrap();
        }
        let error = save("model.module.", |name, data| (name.replace(".weight", ".other"), data));
        let error = error.unwrap_err().to_string();
        for part in ["missing: ", "unexpected: ", ".other", "after \"model.module.\""] {
            assert!(error.contains(part), "{error}");
        }
        let error = save("", |name, data| {
            let mut values: Vec<f32> = data.iter().collect();
            values[0] = if name.ends_with(".weight") { f32::NAN } else { values[0] };
            (name, TensorData::new(values, data.shape().to_vec()))
        });
        let error = error.unwrap_err();
        assert!(matches!(&error, WeightsError::NotFinite { tensor, .. } if tensor.ends_with(".weight")), "{error}");
        let resnet = ["layer4.0.bn1.bias", "conv1.weight"].map(|name| (name.into(), TensorData::from([1.0f32])));
        save_safetensors(resnet.into(), &path).unwrap();
        let error = load_torch(network(), &path).unwrap_err().to_string();
        assert!(error.contains("the names look like those of ResNet"), "{error}");
    }
}
