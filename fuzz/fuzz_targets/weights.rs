//! Any bytes as weights of PyTorch, safetensors or Burn: an error, or a network of the same shapes and finite values, in memory
//! of the file and the network.

#![no_main]

use std::sync::LazyLock;

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use segkiln_fuzz::{Counting, file, measured, quiet};
use segkiln_models::{
    unet::{UNet, UNetConfig},
    weights::{first_not_finite, load, load_torch, torch_contents, torch_shapes},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static NETWORK: LazyLock<UNet> =
    LazyLock::new(|| UNetConfig::new(1, 1).with_base(2).with_depth(1).init(&Device::flex()));

fuzz_target!(init: quiet(&["segkiln", "pytorch-reader"]), |data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let name = ["a.pth", "a.safetensors", "a.bpk", "a.safetensors.index.json", "a"][usize::from(*choice) % 5];
    let path = file(name, bytes);
    let network = NETWORK.clone();
    let shapes = torch_shapes(&network);
    let (loaded, peak) = measured(|| {
        let _ = torch_contents(&path);
        match choice % 5 {
            2 => load(network, &path),
            _ => load_torch(network, &path),
        }
    });
    if let Ok(loaded) = loaded {
        assert_eq!(torch_shapes(&loaded), shapes);
        assert_eq!(first_not_finite(&loaded), None);
    }
    let most = (8 << 20) + 64 * bytes.len();
    assert!(peak <= most, "{peak} bytes for {} bytes", bytes.len());
});
