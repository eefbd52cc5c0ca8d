use burn::tensor::Device;

/// A device name that this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no device {name:?} in this build; it has: {}. Others are Cargo features of the same name", available.join(", "))]
pub struct UnknownDevice {
    /// The name.
    pub name: String,
    /// The names that this build knows.
    pub available: Vec<&'static str>,
}

type Constructor = fn() -> Device;

/// The devices of this build by name: the Cargo features that are on. (NdArray is deprecated upstream.)
#[cfg_attr(feature = "ndarray", allow(deprecated))]
fn devices() -> Vec<(&'static str, Constructor)> {
    vec![
        #[cfg(feature = "cuda")]
        ("cuda", || Device::cuda(0)),
        #[cfg(feature = "rocm")]
        ("rocm", || Device::rocm(0)),
        #[cfg(feature = "metal")]
        ("metal", || Device::metal(Default::default())),
        #[cfg(feature = "vulkan")]
        ("vulkan", || Device::vulkan(Default::default())),
        #[cfg(feature = "webgpu")]
        ("webgpu", || Device::webgpu(Default::default())),
        #[cfg(feature = "wgpu")]
        ("wgpu", || Device::wgpu(Default::default())),
        #[cfg(feature = "flex")]
        ("flex", Device::flex),
        #[cfg(feature = "ndarray")]
        ("ndarray", Device::ndarray),
    ]
}

/// The device that is called `name`: a backend feature of this crate that is on (`flex`, `cuda`, `vulkan`, …).
///
/// ```
/// assert!(segkiln::device_by_name("flex").is_ok());
/// let error = segkiln::device_by_name("abacus").unwrap_err();
/// assert!(error.to_string().contains("flex"));
/// ```
///
/// # Errors
/// [`UnknownDevice`], which lists the names of this build.
pub fn device_by_name(name: &str) -> Result<Device, UnknownDevice> {
    let devices = devices();
    match devices.iter().find(|(known, _)| *known == name) {
        Some((_, device)) => Ok(device()),
        None => {
            Err(UnknownDevice { name: name.to_owned(), available: devices.iter().map(|(known, _)| *known).collect() })
        }
    }
}

/// The device called `name`, else the one that the environment's `BURN_DEVICE` names, else the best of this build.
///
/// # Errors
/// [`UnknownDevice`] for a name, given or in the environment, that this build does not have; `Device::default()` panics
/// there.
pub fn select_device(name: Option<&str>) -> Result<Device, UnknownDevice> {
    match name.map(str::to_owned).or_else(|| std::env::var("BURN_DEVICE").ok()) {
        Some(name) => device_by_name(&name.to_lowercase()),
        None => Ok(Device::default()),
    }
}
