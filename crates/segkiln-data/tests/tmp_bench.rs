use std::time::Instant;
use segkiln_core::*; use segkiln_data::{*, transforms::*};
fn sample(channels: usize) -> Sample {
    let s = 512u32; let n = s*s;
    Sample { name: "s".into(), image: Image::new(s,s,channels,(0..n*channels as u32).map(|i| ((i as f32*0.001).sin()+1.0)/2.0).collect()).unwrap(),
     mask: LabelMap::new(s,s,(0..n).map(|i| (i/s/32 + i%s/32)%3).collect()).unwrap() }
}
#[test] fn bench() {
    for ch in [1,3] {
    let cases: Vec<(&str, Box<dyn Transform>)> = vec![
        ("hflip", Box::new(HorizontalFlip { p: 1.0 })), ("vflip", Box::new(VerticalFlip { p: 1.0 })), ("turn", Box::new(RandomTurn90)),
        ("affine", Box::new(Affine::new().rotate([17.0,17.0]).unwrap())), ("elastic", Box::new(ElasticDeformation::unet())),
        ("rcrop256", Box::new(RandomCrop::new(256,256).unwrap())), ("fgcrop", Box::new(ForegroundCrop::new(256,256,1.0).unwrap())),
        ("pad 700", Box::new(CenterCrop::new(700,700).unwrap())),
        ("resize256", Box::new(Resize::exact(256,256).unwrap())), ("scale1.5", Box::new(ScaleJitter::new([1.5,1.5]).unwrap())),
        ("bright", Box::new(Brightness::new([1.2,1.2]).unwrap())), ("contrast", Box::new(Contrast::new([1.2,1.2]).unwrap())),
        ("gamma", Box::new(Gamma::new([1.2,1.2]).unwrap())), ("hue", Box::new(Hue::new([0.1,0.1]).unwrap())), ("sat", Box::new(Saturation::new([1.2,1.2]).unwrap())),
        ("noise", Box::new(GaussianNoise::new([0.1,0.1]).unwrap())), ("blur1", Box::new(GaussianBlur::new([1.0,1.0]).unwrap())), ("cutout", Box::new(Cutout::new(3,[0.2,0.2]).unwrap())),
        ("normalize", Box::new(Normalize::new(vec![0.5;ch], vec![0.25;ch]).unwrap())),
    ];
    let s = sample(ch);
    for (n,t) in &cases {
        let mut rng = TransformRng::new(0,0,0);
        let mut best = f64::MAX;
        for _ in 0..15 { let x = s.clone(); let t0=Instant::now(); let y=t.apply(x,&mut rng).unwrap(); best=best.min(t0.elapsed().as_secs_f64()); std::hint::black_box(y); }
        println!("{ch}ch {n}: {:.2} ms", best*1e3);
    } }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"); let l = Limits::default();
    let time = |n: &str, f: &dyn Fn()| { let mut best=f64::MAX; for _ in 0..10 { let t=Instant::now(); f(); best=best.min(t.elapsed().as_secs_f64()); } println!("{n}: {:.2} ms", best*1e3) };
    time("read_image png", &|| {read_image(format!("{folder}/image.png"), ColorMode::Gray, &l).unwrap();});
    time("read_labels png", &|| {read_labels(format!("{folder}/labels.png"), &MaskFormat::Binary, &l).unwrap();});
    time("read jpg 640x480", &|| {read_image("/work/shared/data/bccd/JPEGImages/BloodImage_00000.jpg", ColorMode::Rgb, &l).unwrap();});
    let root = std::path::Path::new("/work/shared/data/dsb2018");
    use burn::data::dataloader::DataLoader; use std::sync::Arc;
    let aug = || Compose::new().then(RandomCrop::new(256,256).unwrap()).then(HorizontalFlip{p:0.5}).then(RandomTurn90).then(Affine::new().rotate([-15.0,15.0]).unwrap().scale([0.8,1.25]).unwrap()).then(ElasticDeformation::unet()).then(Brightness::new([0.8,1.2]).unwrap()).then(Normalize::new(vec![0.2],vec![0.2]).unwrap());
    for w in [0,1,2,4] {
        let d = datasets::Dsb2018::open(root,"train",MaskFormat::Binary).unwrap();
        let ld = Loader::builder(Arc::new(d)).transform(aug()).batch_size(8).workers(w).build().unwrap();
        let mut best=f64::MAX; for _ in 0..3 { let t=Instant::now(); let n: usize = ld.iter().map(|b| b.unwrap().names.len()).sum(); best=best.min(t.elapsed().as_secs_f64()/n as f64);} println!("loader files {w} workers: {:.0}/s", 1.0/best);
        let c = datasets::Cached::new(datasets::Dsb2018::open(root,"train",MaskFormat::Binary).unwrap(), 1<<30);
        let ld = Loader::builder(Arc::new(c)).transform(aug()).batch_size(8).workers(w).build().unwrap();
        let mut best=f64::MAX; for _ in 0..3 { let t=Instant::now(); let n: usize = ld.iter().map(|b| b.unwrap().names.len()).sum(); best=best.min(t.elapsed().as_secs_f64()/n as f64);} println!("loader cached {w} workers: {:.0}/s", 1.0/best);
    }
}
