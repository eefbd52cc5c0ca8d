//! Cost of a network: parameters, multiply-adds, activations.

use std::{cell::RefCell, collections::HashMap, fmt};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};

/// Cost of each layer of a network for one input; displayed as a table.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_models::{Summary, backbones::BackboneConfig};
///
/// let device = Device::default();
/// let resnet = BackboneConfig::by_name("resnet18").unwrap().init(&device);
/// let summary = Summary::of(&resnet, |resnet| drop(resnet.forward(Tensor::zeros([1, 3, 64, 64], &device), &[4])));
/// let conv1 = &summary.layers[0];
/// assert_eq!((conv1.name.as_str(), conv1.parameters), ("conv1", 9408));
/// assert_eq!((&conv1.output[..], conv1.multiply_adds), (&[1, 64, 32, 32][..], 9_633_792));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The layers with parameters, in the network's order.
    pub layers: Vec<LayerSummary>,
}

/// Cost of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerSummary {
    /// Its path in the network.
    pub name: String,
    /// Shape of its last output; empty where it is no convolution or fully connected layer, or was not used.
    pub output: Vec<usize>,
    /// Numbers that it learns, or could learn.
    pub parameters: usize,
    /// Multiplications, each with an addition, of convolutions and fully connected layers. torchvision's `_ops` are these.
    pub multiply_adds: u64,
    /// Values that convolutions and fully connected layers put out: Radosavovic et al., CVPR 2020,
    /// <https://arxiv.org/abs/2003.13678>.
    pub activations: u64,
}

impl Summary {
    /// Measures the cost of `forward`, which is run once. Layers that it does not use count only their parameters.
    pub fn of<M: Module>(network: &M, forward: impl FnOnce(&M)) -> Self {
        let outer = CALLS.replace(Some(Vec::new()));
        // Also put back where `forward` panics.
        struct PutBack(Option<Vec<Call>>);
        impl Drop for PutBack {
            fn drop(&mut self) {
                CALLS.set(self.0.take());
            }
        }
        let put_back = PutBack(outer);
        forward(network);
        let calls = CALLS.take().unwrap_or_default();
        drop(put_back);

        let mut costs: HashMap<ParamId, LayerSummary> = HashMap::new();
        for Call { weight, multiply_adds, output } in calls {
            let cost = costs.entry(weight).or_default();
            cost.multiply_adds += multiply_adds;
            cost.activations += output.iter().map(|side| *side as u64).product::<u64>();
            cost.output = output;
        }
        let mut layers = Layers { path: Vec::new(), costs, found: Vec::new() };
        network.visit(&mut layers);
        Self { layers: layers.found }
    }

    /// Returns the summary with the layers of each block summed up; a block is all layers with the same first `depth` names.
    pub fn blocks(&self, depth: usize) -> Self {
        let mut layers: Vec<LayerSummary> = Vec::new();
        for layer in &self.layers {
            let name = layer.name.split('.').take(depth).collect::<Vec<_>>().join(".");
            match layers.last_mut().filter(|block| block.name == name) {
                Some(block) => block.add(layer),
                None => layers.push(LayerSummary { name, ..layer.clone() }),
            }
        }
        Self { layers }
    }

    /// The sum of all layers, called `total`.
    pub fn total(&self) -> LayerSummary {
        let mut total = LayerSummary { name: "total".into(), ..LayerSummary::default() };
        self.layers.iter().for_each(|layer| total.add(layer));
        LayerSummary { output: Vec::new(), ..total }
    }
}

impl LayerSummary {
    fn add(&mut self, other: &Self) {
        self.parameters += other.parameters;
        self.multiply_adds += other.multiply_adds;
        self.activations += other.activations;
        if !other.output.is_empty() {
            self.output.clone_from(&other.output);
        }
    }
}

/// A table with a line a layer, and the total.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["layer", "output", "parameters", "multiply-adds", "activations"].map(String::from);
        let row = |layer: &LayerSummary| {
            let output = layer.output.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            let counts = [layer.parameters as u64, layer.multiply_adds, layer.activations].map(grouped);
            let [parameters, multiply_adds, activations] = counts;
            [layer.name.clone(), output, parameters, multiply_adds, activations]
        };
        let rows: Vec<[String; 5]> =
            [head].into_iter().chain(self.layers.iter().map(row)).chain([row(&self.total())]).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
        for (index, [name, output, parameters, multiply_adds, activations]) in rows.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{name:a$}  {output:b$}  {parameters:>c$}  {multiply_adds:>d$}  {activations:>e$}")?;
        }
        Ok(())
    }
}

/// Writes a number with a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// A layer's use.
struct Call {
    weight: ParamId,
    multiply_adds: u64,
    output: Vec<usize>,
}

thread_local! {
    /// The uses so far, where somebody counts.
    static CALLS: RefCell<Option<Vec<Call>>> = const { RefCell::new(None) };
}

/// Whether somebody counts this thread's layers.
pub(crate) fn is_counting() -> bool {
    CALLS.with_borrow(Option::is_some)
}

/// Counts a layer's use, if somebody does: each of `places` is multiplied with each of the weights that it meets.
pub(crate) fn count<const D: usize, const W: usize>(weight: &Param<Tensor<W>>, places: usize, output: &Tensor<D>) {
    CALLS.with_borrow_mut(|calls| {
        if let Some(calls) = calls {
            let multiply_adds = places as u64 * weight.lazy_shape().num_elements() as u64;
            calls.push(Call { weight: weight.id, multiply_adds, output: output.dims().to_vec() });
        }
    });
}

/// The layers with parameters.
struct Layers {
    /// Names, without those of an enum's variants; and whether these are running statistics or a frozen norm, which PyTorch
    /// does not count either.
    path: Vec<(Option<String>, bool)>,
    costs: HashMap<ParamId, LayerSummary>,
    found: Vec<LayerSummary>,
}

impl ModuleVisitor for Layers {
    fn enter_module(&mut self, name: &str, container: &str) {
        let is_variant = container.starts_with("Enum:");
        let is_spared = container == "Struct:FrozenBatchNorm" || name.starts_with("running_");
        self.path.push(((!is_variant).then(|| name.into()), is_spared));
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.path.iter().any(|(_, is_spared)| *is_spared) {
            return;
        }
        let path: Vec<&str> = self.path.iter().filter_map(|(name, _)| name.as_deref()).collect();
        let layer = path.split_last().map_or(&[][..], |(_, layer)| layer);
        let cost = self.costs.remove(&param.id).unwrap_or_default();
        let layer = LayerSummary { name: layer.join("."), parameters: param.lazy_shape().num_elements(), ..cost };
        match self.found.last_mut().filter(|last| last.name == layer.name) {
            Some(last) => last.add(&layer),
            None => self.found.push(layer),
        }
    }
}
