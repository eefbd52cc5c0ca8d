//! Saving and loading of weights, in Burn's burnpack format (`.bpk`); loading of PyTorch's files, see [`load_torch`]; and
//! what is published for whom, see [`Weights`].
//!
//! A `.bpk` file holds each parameter and each running statistic under its path in the network, in the order of the network, and
//! nothing that changes from run to run: the same weights give the same bytes. It is written to a temporary name and
//! renamed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

mod aliases;
mod peel;
mod pretrained;
mod published;
mod quantized;
mod source;
mod torch;

pub(crate) use aliases::{OtherNames, each_name};
use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    store::{ModuleRecord, burn_pack},
    tensor::{Bytes, DType, Tensor, TensorData},
};
pub(crate) use pretrained::{borrowed, load_pretrained};
pub use published::*;
pub use quantized::{save_quantized, save_quantized_layers};
pub use torch::{
    Exceptions, load_torch, load_torch_but, save_safetensors, save_torch, torch_contents, torch_network, torch_shapes,
};
pub use torch::{TorchName, TorchNames};
pub(crate) use torch::{save_torch_named, torch_shapes_named};

use crate::Summary;

/// Why weights could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be written; what was there before is untouched.
    #[error("cannot write weights to {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Message of the system or the file format.
        reason: String,
    },
    /// The file is not there, is cut short, or is of no known kind.
    #[error("cannot read weights from {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Message of the system or the file format.
        reason: String,
    },
    /// The file holds the weights of another network.
    #[error("the weights in {} are not of this network: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensors that do not fit.
        mismatch: Mismatch,
    },
    /// A tensor of the file has a NaN or an infinity, with which a network finds nothing.
    #[error("the weights in {} are not finite: {tensor} has a NaN or an infinity; take an earlier file", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
    },
    /// Published weights that were downloaded are not what they were.
    #[error(
        "{} was downloaded with the SHA-256 {expected} and now has {found}: it is damaged; remove it, and it is \
         downloaded again", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its SHA-256 when it was downloaded.
        expected: String,
        /// Its SHA-256 now.
        found: String,
    },
    /// Published weights are not on this machine and could not be downloaded.
    #[error(
        "the weights of {network} are not in {}: {reason}; put {url} there, or give a file of your own",
        path.display()
    )]
    Absent {
        /// The network.
        network: &'static str,
        /// Path that the file would have.
        path: PathBuf,
        /// Address that it can be downloaded from.
        url: String,
        /// Why it was not.
        reason: String,
    },
}

/// The tensors in which a file and a network differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that are in the network and not in the file.
    pub missing: Vec<String>,
    /// Tensors that are in the file and not in the network.
    pub unexpected: Vec<String>,
    /// Tensors that are in both with other shapes: name, shape in the network, shape in the file.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Prefix of the file's names, if any, and the kind of network that they look like, where none of the tensors fits.
    pub remark: Option<Box<str>>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than these help nobody.
        const SHOWN: usize = 8;
        let mut parts = Vec::new();
        let mut part = |what: &str, names: Vec<String>| {
            if !names.is_empty() {
                let rest = names.len().saturating_sub(SHOWN);
                let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
                parts.push(format!("{what} {}{more}", names[..names.len().min(SHOWN)].join(", ")));
            }
        };
        let shapes =
            self.shapes.iter().map(|(name, network, file)| format!("{name} (needs {network:?}, has {file:?})"));
        part("of another shape:", shapes.collect());
        part("missing:", self.missing.clone());
        part("unexpected:", self.unexpected.clone());
        parts.extend(self.remark.as_deref().map(String::from));
        f.write_str(&parts.join("; "))
    }
}

/// Writes the weights of `module` to `path`, replacing what is there in one step.
///
/// # Errors
/// [`WeightsError::Write`], for example on a full disk.
pub fn save<M: Module>(module: &M, path: &Path) -> Result<(), WeightsError> {
    let tensors = visit(module, |param, _| param.data()).into_iter();
    write(tensors.map(|(name, data)| packed(name, data)).collect(), path)
}

fn packed(name: String, data: TensorData) -> burn_pack::Tensor {
    let (bytes, shape, dtype) = data.into_parts();
    burn_pack::Tensor::new(name, dtype, shape, None, bytes)
}

fn write(tensors: Vec<burn_pack::Tensor>, path: &Path) -> Result<(), WeightsError> {
    burn_pack::Writer::new(tensors)
        .auto_extension(false)
        .write_to_file(path)
        .map_err(|error| WeightsError::Write { path: path.into(), reason: error.to_string() })
}

/// Whether a file of weights is one of ours, by its name.
pub(crate) fn is_own(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bpk")
}

/// Loads the weights in `path` into `module`, which keeps its device.
///
/// # Errors
/// [`WeightsError::Read`], or [`WeightsError::Mismatch`] naming the tensors if the file is not of this network.
pub fn load<M: Module>(module: M, path: &Path) -> Result<M, WeightsError> {
    let unreadable = |reason: String| WeightsError::Read { path: path.into(), reason };
    // Asked before the file is opened: to open a pipe would wait for a writer.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(unreadable("it is no file".into()));
    }
    has_metadata(path).map_err(unreadable)?;
    let file = burn_pack::Reader::from_file_exact(path)
        .and_then(burn_pack::Reader::into_tensors)
        .map_err(|error| unreadable(error.to_string()))?;
    let mut shapes: BTreeMap<&str, Vec<usize>> =
        file.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.to_vec())).collect();

    let mut mismatch = Mismatch::default();
    for (name, shape) in visit(&module, |param, _| param.shape()) {
        match shapes.remove(name.as_str()) {
            None => mismatch.missing.push(name),
            Some(found) if found != shape => mismatch.shapes.push((name, shape, found)),
            Some(_) => {}
        }
    }
    mismatch.unexpected = shapes.into_keys().map(String::from).collect();
    if !mismatch.is_empty() {
        return Err(WeightsError::Mismatch { path: path.into(), mismatch });
    }
    // Read here and not where a tensor is first used: the file may be moved or replaced by then.
    let bytes = if file.iter().any(|tensor| matches!(tensor.dtype, DType::QFloat(_))) {
        let floats: Result<Vec<_>, String> = file.into_iter().map(quantized::floats).collect();
        let floats = burn_pack::Writer::new(floats.map_err(unreadable)?).into_bytes();
        floats.map_err(|error| unreadable(error.to_string()))?
    } else {
        Bytes::from_bytes_vec(std::fs::read(path).map_err(|error| unreadable(error.to_string()))?)
    };
    let module = ModuleRecord::from_bytes(bytes)
        .and_then(|record| module.try_load_record(record.cast_to_module_dtype()))
        .map_err(|error| unreadable(error.to_string()))?;
    match first_not_finite(&module) {
        Some(tensor) => Err(WeightsError::NotFinite { path: path.into(), tensor }),
        None => Ok(module),
    }
}

/// Checks that a file has as many bytes of metadata as its header says, for which the reader takes memory before it looks: up
/// to 100 MB.
fn has_metadata(path: &Path) -> Result<(), String> {
    /// Magic number, version, and size of the metadata.
    const HEADER: usize = 4 + 2 + 4;
    let mut header = [0; HEADER];
    let text = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(text)?;
    file.read_exact(&mut header).map_err(text)?;
    let [.., a, b, c, d] = header;
    let end = HEADER as u64 + u64::from(u32::from_le_bytes([a, b, c, d]));
    match file.metadata().map_err(text)?.len() {
        length if length < end => Err(format!("it has {length} bytes, and metadata to {end} by its header")),
        _ => Ok(()),
    }
}

/// The path of the first parameter or running statistic with a NaN or an infinity; none where all are finite.
pub fn first_not_finite<M: Module>(module: &M) -> Option<String> {
    let is_finite = |param: &dyn AnyParam| param.data().iter::<f32>().all(f32::is_finite);
    visit(module, |param, _| is_finite(param)).into_iter().find(|(_, finite)| !finite).map(|(name, _)| name)
}

/// Counts the numbers that a network learns or could learn: without running statistics, and without frozen norms, as PyTorch
/// counts. See [`Summary`].
pub fn parameters<M: Module>(module: &M) -> usize {
    Summary::of(module, |_| ()).total().parameters
}

/// A parameter of any rank.
pub(crate) trait AnyParam {
    fn id(&self) -> ParamId;
    /// Does not allocate a parameter that has no values yet.
    fn shape(&self) -> Vec<usize>;
    fn data(&self) -> TensorData;
}

impl<const D: usize> AnyParam for Param<Tensor<D>> {
    fn id(&self) -> ParamId {
        self.id
    }

    fn shape(&self) -> Vec<usize> {
        self.lazy_shape().to_vec()
    }

    fn data(&self) -> TensorData {
        self.transform_for_save().val().into_data()
    }
}

/// Applies `read` to every parameter and running statistic and the name of its layer's type; returns each path and result, in
/// the network's order.
pub(crate) fn visit<M: Module, T>(module: &M, read: impl Fn(&dyn AnyParam, &str) -> T) -> Vec<(String, T)> {
    struct Named<T, F> {
        path: Vec<String>,
        layers: Vec<String>,
        read: F,
        found: Vec<(String, T)>,
    }

    impl<T, F: Fn(&dyn AnyParam, &str) -> T> ModuleVisitor for Named<T, F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.push(name.into());
            self.layers.push(container.strip_prefix("Struct:").unwrap_or(container).into());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
            self.layers.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let layer = self.layers.last().map_or("", String::as_str);
            self.found.push((self.path.join("."), (self.read)(param, layer)));
        }
    }

    let mut named = Named { path: Vec::new(), layers: Vec::new(), read, found: Vec::new() };
    module.visit(&mut named);
    named.found
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::unet::UNetConfig;

    fn config() -> UNetConfig {
        UNetConfig::new(1, 2).with_base(2).with_depth(1)
    }

    #[test]
    fn the_same_weights_give_the_same_bytes_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::default();
        let unet = config().init(&device);
        let paths = ["a.bpk", "b.bpk"].map(|name| folder.path().join(name));
        save(&unet, &paths[0]).unwrap();
        let loaded = load(config().init(&device), &paths[0]).unwrap();
        save(&loaded, &paths[1]).unwrap();
        assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
        let x = Tensor::random([1, 1, 8, 8], Distribution::Default, &device);
        unet.forward(x.clone()).into_data().assert_eq(&loaded.forward(x).into_data(), true);
    }

    #[test]
    fn another_network_s_weights_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.bpk");
        let device = Device::default();
        save(&config().init(&device), &path).unwrap();
        let error = load(config().with_base(4).with_depth(2).init(&device), &path).unwrap_err().to_string();
        assert!(error.contains("small.bpk"), "{error}");
        assert!(error.contains("encoder.levels.0.first.conv.weight (needs [4, 1, 3, 3], has [2, 1, 3, 3])"), "{error}");
        assert!(error.contains("missing: encoder.levels.1.first.conv.weight"), "{error}");
    }

    #[test]
    fn weights_that_are_not_finite_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nan.bpk");
        let device = Device::default();
        for value in [f32::NAN, f32::INFINITY] {
            let unet = config().init(&device);
            let tensors = visit(&unet, |param, _| param.data()).into_iter().enumerate().map(|(index, (name, data))| {
                let mut values: Vec<f32> = data.iter().collect();
                values[0] = if index == 2 { value } else { values[0] };
                packed(name, TensorData::new(values, data.shape().to_vec()))
            });
            write(tensors.collect(), &path).unwrap();
            let third = visit(&unet, |_, _| ()).swap_remove(2).0;
            let error = load(config().init(&device), &path).unwrap_err().to_string();
            assert!(error.contains("nan.bpk") && error.contains(&third), "{error}");
        }
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::default();
        let path = folder.path().join("unet.bpk");
        assert!(matches!(load(config().init(&device), &path), Err(WeightsError::Read { .. })));
        save(&config().init(&device), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 1, 9, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = load(config().init(&device), &path).unwrap_err();
            assert!(error.to_string().contains("unet.bpk"), "{length} bytes: {error}");
        }
        // Metadata of 100 MB, of which the file has none.
        let claim = [&whole[..6], &(100u32 << 20).to_le_bytes(), &whole[10..]].concat();
        std::fs::write(&path, claim).unwrap();
        let error = load(config().init(&device), &path).unwrap_err().to_string();
        assert!(error.contains("metadata to 104857610"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let device = Device::default();
        let error = save(&config().init(&device), Path::new("/nowhere/at/all.bpk")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.bpk"), "{error}");
    }
}
