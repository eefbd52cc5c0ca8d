//! Segments a film, or finds and follows objects in it, frame by frame.
//!
//! ```text
//! cargo run --example video -- --model runs/unet --input cells.gif --output cells_overlay.gif --track
//! ffmpeg -i street.mp4 -f yuv4mpegpipe - | cargo run --example video -- --arch maskrcnn_resnet50_fpn --input - --output - --track \
//!     | ffmpeg -i - street_overlay.mp4
//! ```
//!
//! Frames are read, computed and written at the same time, a few of them in memory, however long the film is. The speed, and what
//! limits it, are shown on stderr. At a damaged frame, the film of the frames before it is complete.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use segkiln::{
    data::{
        films::{Film, FilmOptions, FilmWriter, Matrix, StageTimes, process},
        refuse_replacing,
    },
    train::checkpoint::{prepare_for, sweep},
};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/decoding.rs"]
mod decoding;
mod network;
mod predict;
#[path = "../common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};
use decoding::Decoding;
use network::{Network, NetworkArgs};
use predict::Predictor;

/// Segments a film, or finds objects in it.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Film: a folder of images, a pattern such as frames/%06d.png, a file (Y4M, GIF, APNG, WebP, TIFF), or - for Y4M on stdin
    #[arg(long, allow_hyphen_values = true)]
    input: PathBuf,
    /// Film to write: a folder, a pattern, a file (.y4m, .gif, .png, .webp, .tif), or - for Y4M on stdout
    #[arg(long, allow_hyphen_values = true)]
    output: PathBuf,
    /// Follow objects from frame to frame; of segmentation networks the connected parts of the classes
    #[arg(long)]
    track: bool,
    /// File for the boxes of the tracks, as MOTChallenge has them
    #[arg(long, requires = "track")]
    mot: Option<PathBuf>,
    /// Weight of the frames before in the class probabilities, from 0 to less than 1
    #[arg(long, value_name = "X")]
    smooth: Option<f32>,
    /// Compute every Nth frame; the frames between show the result of the one before
    #[arg(long, value_name = "N", default_value = "1")]
    every: std::num::NonZeroU64,
    /// Write class maps in place of overlays; with --track, maps of the tracks' numbers
    #[arg(long)]
    map: bool,
    /// Colors of Y4M: bt601 or bt709 [default: bt709 from 1280x720 pixels on]
    #[arg(long)]
    matrix: Option<Matrix>,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let to_stream = args.output.as_os_str() == "-";
    let inputs = [place(&args.input), args.network.weights.clone()];
    refuse_replacing(&inputs, [place(&args.output)].iter().chain(&args.mot))?;
    let network = Network::load(&args.network, args.track, &args.machine.device()?)?;
    prepare_for(args.mot.iter().chain(Some(&args.output).filter(|_| !to_stream)))?;
    let frames = place(&args.output);
    if !to_stream && frames.is_dir() {
        sweep(&frames)?;
    }
    let mut predictor = Predictor::new(network, args)?;
    let options = FilmOptions { decode: args.decode.options(), matrix: args.matrix };
    let mut said = Instant::now();
    let stages = process(
        || Film::open(&args.input, &options),
        |rate| FilmWriter::create(&args.output, rate, &options),
        |number, frame| predictor.frame(number, frame).map(Some),
        |stages| {
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                eprintln!("{}", speed(stages));
            }
        },
    )?;
    let tracks = predictor.finish()?;
    eprintln!("{}", speed(&stages));
    let mut line = json!({ "frames": stages.frames, "seconds": start.elapsed().as_secs_f64(), "tracks": tracks });
    line["frames_per_second"] = stages.frames_per_second().into();
    if let Some([before, after]) = predictor.flicker() {
        eprintln!(
            "still pixels that change their class: {:.3} % before smoothing, {:.3} % after",
            100.0 * before,
            100.0 * after
        );
        line["flicker"] = json!({ "before": before, "after": after });
    }
    match to_stream {
        true => eprintln!("{line}"),
        false => say(line)?,
    }
    Ok(())
}

fn speed(stages: &StageTimes) -> String {
    let (limit, busy) = stages.limit();
    let speed = stages.frames_per_second();
    format!(
        "{} frames, {speed:.1} a second; {limit} limits it, busy for {:.0} % of the time",
        stages.frames,
        100.0 * busy
    )
}

/// The file, or the folder that a film's frames are in.
fn place(film: &Path) -> PathBuf {
    match film.file_name() {
        Some(name) if name.to_string_lossy().contains('%') => match film.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
            _ => ".".into(),
        },
        _ => film.into(),
    }
}
