//! Outputs of a network's layers, by their names, while it computes.
//!
//! The functions of [`crate::layers`] report each map that they put out, by the [`ParamId`] of the layer's weight; a visitor of
//! the network's module says which name that is. Outside of [`LayerMaps::of`] and [`LayerMaps::edit`] a report is the look at one
//! thread-local flag. Fused operators (convolution, norm and activation at once) report what they put out as the output of the
//! module around them, and compute one by one only where an edit asks for the convolution or the norm itself.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId, list_param_ids},
    tensor::Tensor,
};

use crate::precision::full;

/// A layer that a network does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the network has no layer {name:?}; {}", known(within, names))]
pub struct UnknownLayer {
    /// The name that was asked for.
    pub name: String,
    /// The longest beginning of it that is a module; empty for the network itself.
    pub within: String,
    /// Names of the modules and layers in that module.
    pub names: Vec<String>,
}

fn known(within: &str, names: &[String]) -> String {
    let names = names.join(", ");
    if within.is_empty() { format!("it has {names}") } else { format!("in {within} it has {names}") }
}

/// A layer or module that puts out a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMap {
    name: String,
    shape: [usize; 4],
    /// The module whose reports count, and which of them this is, from 1.
    module: String,
    count: usize,
    is_single: bool,
}

impl LayerMap {
    /// Name that it was asked for by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the map, `[batch, channels, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    fn matches(&self, path: &str, kind: Kind) -> bool {
        match self.is_single {
            true => kind != Kind::Module && path == self.module,
            false => kind != Kind::Fused && is_within(path, &self.module),
        }
    }
}

/// Replaces the map of a layer; returns what the network computes on with, which has the same shape, or another batch.
pub type Edit = Box<dyn FnMut(Tensor<4>) -> Tensor<4>>;

/// The maps that a network puts out, in the order in which it computes them.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
///
/// use burn::tensor::{Device, Tensor};
/// use segkiln_models::{LayerMaps, unet::UNetConfig};
///
/// let device = Device::flex();
/// let unet = UNetConfig::new(3, 2).with_base(4).with_depth(2).init(&device);
/// let x = Tensor::ones([1, 3, 16, 24], &device);
/// let (maps, _) = LayerMaps::of(&unet, || unet.forward(x.clone()));
/// let bottleneck = maps.find("encoder.bottleneck").unwrap();
/// assert_eq!(bottleneck.shape(), [1, 16, 4, 6]);
///
/// // Without the bottleneck.
/// let zeros = Box::new(|map: Tensor<4>| map.zeros_like());
/// let logits = maps.edit(vec![(bottleneck, zeros)], || unet.forward(x));
/// assert_eq!(logits.dims(), [1, 2, 16, 24]);
/// ```
#[derive(Debug, Clone)]
pub struct LayerMaps {
    paths: Arc<HashMap<ParamId, String>>,
    reports: Vec<Report>,
}

/// A map that was put out.
#[derive(Debug, Clone)]
struct Report {
    path: String,
    kind: Kind,
    shape: [usize; 4],
}

/// Computation of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A layer by itself.
    Layer,
    /// A layer that is fused with its neighbors; the map may not be there.
    Fused,
    /// All layers of a module.
    Module,
}

impl LayerMaps {
    /// Finds the maps of `forward`, which computes `network`, and returns its result. It is run once.
    pub fn of<M: Module, T>(network: &M, forward: impl FnOnce() -> T) -> (Self, T) {
        let paths = Arc::new(paths(network));
        let found = Rc::new(RefCell::new(Vec::new()));
        let result = with(State { paths: paths.clone(), mode: Mode::Find(found.clone()) }, forward);
        let reports = found.take();
        (Self { paths, reports }, result)
    }

    /// The map of the layer or module with this name, as a [`Summary`](crate::Summary) calls it; of a module, its last output. One
    /// that computes several times (a detector's head) puts out as many maps: `NAME#0` is the first one.
    ///
    /// # Errors
    /// If there is none; with the names there are.
    pub fn find(&self, name: &str) -> Result<LayerMap, UnknownLayer> {
        let (module, call) = match name.rsplit_once('#') {
            Some((module, call)) if call.parse::<usize>().is_ok() => (module, call.parse().ok()),
            _ => (name, None),
        };
        let is_single = self.reports.iter().any(|report| report.path == module && report.kind != Kind::Module);
        let mut map = LayerMap { name: name.into(), shape: [0; 4], module: module.into(), count: 0, is_single };
        for report in &self.reports {
            if map.matches(&report.path, report.kind) {
                map.shape = report.shape;
                map.count += 1;
                if call.is_some_and(|call: usize| map.count == call + 1) {
                    return Ok(map);
                }
            }
        }
        if map.count > 0 && call.is_none() && !module.is_empty() { Ok(map) } else { Err(self.unknown(name)) }
    }

    /// Names of the layers and modules that put out maps, with the maps' shapes, in the order in which they begin.
    pub fn names(&self) -> Vec<LayerMap> {
        let mut names: Vec<&str> = Vec::new();
        for report in &self.reports {
            let ends = report.path.match_indices('.').map(|(at, _)| at).chain([report.path.len()]);
            for name in ends.map(|end| &report.path[..end]) {
                if !name.is_empty() && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names.into_iter().filter_map(|name| self.find(name).ok()).collect()
    }

    /// Computes `forward`, which must compute the same network, with edited maps. Each layer may be edited once; one that is not
    /// reached, because the network computes otherwise than it did before, is not edited.
    pub fn edit<T>(&self, edits: Vec<(LayerMap, Edit)>, forward: impl FnOnce() -> T) -> T {
        let edits = edits.into_iter().map(|(map, edit)| Pending { left: map.count, map, edit: Some(edit) }).collect();
        with(State { paths: self.paths.clone(), mode: Mode::Edit(edits) }, forward)
    }

    fn unknown(&self, name: &str) -> UnknownLayer {
        let all: Vec<String> = self.names().into_iter().map(|map| map.name).collect();
        let mut within = name;
        while !within.is_empty() && !all.iter().any(|known| known == within) {
            within = within.rsplit_once('.').map_or("", |(parent, _)| parent);
        }
        let inside = |known: &String| match within.is_empty() {
            true => !known.contains('.'),
            false => known.strip_prefix(within).is_some_and(|rest| rest.starts_with('.') && !rest[1..].contains('.')),
        };
        let names: Vec<String> = all.iter().filter(|known| inside(known)).cloned().collect();
        UnknownLayer { name: name.into(), within: within.into(), names }
    }
}

/// Whether a path is that of a module or of something in it.
fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

struct State {
    paths: Arc<HashMap<ParamId, String>>,
    mode: Mode,
}

enum Mode {
    Find(Rc<RefCell<Vec<Report>>>),
    Edit(Vec<Pending>),
}

struct Pending {
    map: LayerMap,
    /// Reports until it is the one.
    left: usize,
    edit: Option<Edit>,
}

thread_local! {
    static IS_ACTIVE: Cell<bool> = const { Cell::new(false) };
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// Calls `f` in a state and puts the old one back, also when `f` panics.
fn with<T>(state: State, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<State>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_ACTIVE.set(self.0.is_some());
            STATE.set(self.0.take());
        }
    }
    let _restore = Restore(STATE.replace(Some(state)));
    IS_ACTIVE.set(true);
    f()
}

/// Whether somebody watches this thread's networks.
pub(crate) fn is_active() -> bool {
    IS_ACTIVE.get()
}

/// A place in a network that [`tap`] makes visible.
#[derive(Debug, Clone, Copy)]
pub enum TapPlace<'a> {
    /// The layer of a parameter.
    Layer(ParamId),
    /// A name that the network gives itself.
    Name(&'a str),
}

impl<const D: usize> From<&Param<Tensor<D>>> for TapPlace<'_> {
    fn from(param: &Param<Tensor<D>>) -> Self {
        Self::Layer(param.id)
    }
}

impl<'a> From<&'a str> for TapPlace<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

/// Makes a map of a network of your own visible to [`LayerMaps`], as the output of the layer that has a parameter, or under a
/// name of its own. The functions of [`crate::layers`] do it by themselves. Returns the map, edited where somebody edits it; where
/// nobody looks it costs nothing.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn tap<'a>(place: impl Into<TapPlace<'a>>, map: Tensor<4>) -> Tensor<4> {
    if !is_active() { map } else { report(place.into(), Kind::Layer, map) }
}

/// Reports the map of a layer that was computed together with its neighbors, but by itself for this report.
pub(crate) fn fused(layer: Option<ParamId>, map: Tensor<4>) -> Tensor<4> {
    match layer {
        Some(layer) if is_active() => report(TapPlace::Layer(layer), Kind::Fused, map),
        _ => map,
    }
}

/// Reports the map of the module in which the layer of a parameter is, and returns it.
pub(crate) fn around<const D: usize>(param: &Param<Tensor<D>>, map: Tensor<4>) -> Tensor<4> {
    if !is_active() {
        return map;
    }
    let path = path(param.id).and_then(|layer| layer.rsplit_once('.').map(|(module, _)| module.to_owned()));
    report(TapPlace::Name(&path.unwrap_or_default()), Kind::Module, map)
}

/// Reports the map of a module of more than one layer, and returns it.
pub(crate) fn module<M: Module>(module: &M, map: Tensor<4>) -> Tensor<4> {
    if !is_active() {
        return map;
    }
    // The names that all of its layers begin with.
    let layers: Vec<String> = list_param_ids(module).into_iter().filter_map(path).collect();
    let common = layers
        .iter()
        .map(|layer| layer.split('.').collect::<Vec<_>>())
        .reduce(|common, layer| common.into_iter().zip(layer).take_while(|(a, b)| a == b).map(|(a, _)| a).collect());
    report(TapPlace::Name(&common.unwrap_or_default().join(".")), Kind::Module, map)
}

fn path(layer: ParamId) -> Option<String> {
    STATE.with_borrow(|state| state.as_ref()?.paths.get(&layer).cloned())
}

/// Whether fused layers must be computed one by one, because one of them is edited. Where maps are looked for, notes that they could
/// be; they have the shape `shape`.
pub(crate) fn splits(layers: &[Option<ParamId>], shape: impl FnOnce() -> [usize; 4]) -> bool {
    if !is_active() {
        return false;
    }
    STATE.with_borrow_mut(|state| {
        let Some(state) = state else { return false };
        let paths: Vec<&String> = layers.iter().flatten().filter_map(|layer| state.paths.get(layer)).collect();
        match &mut state.mode {
            Mode::Find(found) => {
                let shape = shape();
                let report = |path: &String| Report { path: path.clone(), kind: Kind::Fused, shape };
                found.borrow_mut().extend(paths.into_iter().map(report));
                false
            }
            Mode::Edit(edits) => {
                edits.iter().any(|edit| edit.left > 0 && paths.iter().any(|path| edit.map.matches(path, Kind::Fused)))
            }
        }
    })
}

fn report(place: TapPlace<'_>, kind: Kind, map: Tensor<4>) -> Tensor<4> {
    // An edit may itself compute with the functions that report.
    let edit = STATE.with_borrow_mut(|state| {
        let state = state.as_mut()?;
        let path = match place {
            TapPlace::Name(name) => name,
            TapPlace::Layer(layer) => state.paths.get(&layer)?,
        };
        match &mut state.mode {
            Mode::Find(found) => {
                found.borrow_mut().push(Report { path: path.into(), kind, shape: map.dims() });
                None
            }
            Mode::Edit(edits) => {
                let mut now = None;
                for edit in edits.iter_mut().filter(|edit| edit.left > 0 && edit.map.matches(path, kind)) {
                    edit.left -= 1;
                    if edit.left == 0 {
                        now = edit.edit.take();
                    }
                }
                now
            }
        }
    });
    match edit {
        Some(mut edit) => edit(full(map)),
        None => map,
    }
}

/// The names of the layers of a network, by their parameters.
fn paths<M: Module>(network: &M) -> HashMap<ParamId, String> {
    struct Paths {
        /// `None` for the variants of enums.
        path: Vec<Option<String>>,
        found: HashMap<ParamId, String>,
    }
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.push((!container.starts_with("Enum:")).then(|| name.into()));
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path: Vec<&str> = self.path.iter().flatten().map(String::as_str).collect();
            let layer = path.split_last().map_or(&[][..], |(_, layer)| layer);
            self.found.entry(param.id).or_insert_with(|| layer.join("."));
        }
    }
    let mut visitor = Paths { path: Vec::new(), found: HashMap::new() };
    network.visit(&mut visitor);
    visitor.found
}
