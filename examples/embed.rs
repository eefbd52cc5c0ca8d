//! A trained network inside another program: `cargo run --example embed -- runs/unet IMAGE...`

use segkiln::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("usage: embed MODEL IMAGE...")?;
    let segmenter = Segmenter::load(model, &Device::default())?;

    // One network serves as many threads as there are images.
    std::thread::scope(|scope| {
        for path in args {
            let segmenter = &segmenter;
            scope.spawn(move || match count(segmenter, &path) {
                Ok(share) => println!("{path}: {:.1} % foreground", 100.0 * share),
                Err(error) => eprintln!("{path}: {error}"),
            });
        }
    });
    Ok(())
}

fn count(segmenter: &Segmenter, path: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let labels = segmenter.segment(&image::open(path)?)?.map().as_slice().to_vec();
    Ok(labels.iter().filter(|label| **label > 0).count() as f64 / labels.len() as f64)
}
