//! Reading, computing and writing at the same time.

use std::{
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use image::DynamicImage;

use super::{Film, FilmWriter, FrameRate};
use crate::{DataError, Result};

/// Frames that wait between two stages.
const WAITING: usize = 4;

/// Time that each stage of [`process`] was busy.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StageTimes {
    /// Frames that were read.
    pub frames: u64,
    /// Wall-clock time since the start; the stages overlap in it.
    pub total: Duration,
    /// Time in which frames were read.
    pub decode: Duration,
    /// Time in which the caller's function ran.
    pub compute: Duration,
    /// Time in which frames were written, known when the film is complete.
    pub encode: Duration,
}

impl StageTimes {
    /// Frames a second.
    pub fn frames_per_second(&self) -> f64 {
        self.frames as f64 / self.total.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The stage that was busy longest, which limits the speed, and the share of the time that it was busy.
    pub fn limit(&self) -> (&'static str, f64) {
        let stages = [("decoding", self.decode), ("computing", self.compute), ("encoding", self.encode)];
        let (name, busy) = stages.into_iter().max_by_key(|(_, busy)| *busy).expect("there are three");
        (name, busy.as_secs_f64() / self.total.as_secs_f64().max(f64::MIN_POSITIVE))
    }
}

/// Reads a film, computes a frame from each of its frames, and writes these; frames for which `compute` gives none are not
/// written. Reading, computing and writing overlap: `open` and `create` run on threads of their own, `compute` on the caller's.
/// A few frames are in memory at a time, however long the film is.
///
/// At an error, the frames before it are written and the writer is finished, so that they are a valid film. `progress` is told the
/// times after each frame.
///
/// ```
/// use segkiln_data::films::{Film, FilmOptions, FilmWriter, process};
/// # let folder = tempfile::tempdir()?;
/// # let [frames, gif] = ["frames", "film.gif"].map(|name| folder.path().join(name));
/// # std::fs::create_dir(&frames)?;
/// # for name in ["0.png", "1.png"] {
/// #     image::RgbImage::new(64, 48).save(frames.join(name))?;
/// # }
///
/// let options = FilmOptions::default();
/// let stages = process(
///     || Film::open(&frames, &options),
///     |rate| FilmWriter::create(&gif, rate, &options),
///     |_, mut frame| {
///         frame.invert();
///         Ok::<_, segkiln_data::DataError>(Some(frame.thumbnail(32, 32)))
///     },
///     |_| {},
/// )?;
/// assert_eq!(Film::open(&gif, &options)?.count() as u64, stages.frames);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The first of reading, `compute` and writing.
pub fn process<E: From<DataError>>(
    open: impl FnOnce() -> Result<Film> + Send,
    create: impl FnOnce(Option<FrameRate>) -> Result<FilmWriter> + Send,
    mut compute: impl FnMut(u64, DynamicImage) -> std::result::Result<Option<DynamicImage>, E>,
    mut progress: impl FnMut(&StageTimes),
) -> std::result::Result<StageTimes, E> {
    let start = Instant::now();
    thread::scope(|scope| {
        let (rates, rate) = sync_channel(1);
        let (frames, read) = sync_channel::<(Result<DynamicImage>, Duration)>(WAITING);
        let (images, computed) = sync_channel::<DynamicImage>(WAITING);
        scope.spawn(move || {
            let mut film = match open() {
                Ok(film) => film,
                Err(error) => return drop(frames.send((Err(error), Duration::ZERO))),
            };
            let _ = rates.send(film.rate());
            loop {
                let start = Instant::now();
                let Some(frame) = film.next() else { return };
                // Nobody listens after an error of another stage.
                if frames.send((frame, start.elapsed())).is_err() {
                    return;
                }
            }
        });
        let writer = scope.spawn(move || -> Result<Duration> {
            let mut busy = Duration::ZERO;
            // Without a rate the film could not be opened, which its own error says.
            let Ok(rate) = rate.recv() else { return Ok(busy) };
            let mut writer = create(rate)?;
            for image in computed {
                let start = Instant::now();
                let written = writer.write(&image);
                busy += start.elapsed();
                if let Err(error) = written {
                    // The first error is the one to report.
                    let _ = writer.finish();
                    return Err(error);
                }
            }
            let start = Instant::now();
            writer.finish()?;
            Ok(busy + start.elapsed())
        });
        let mut stages = StageTimes::default();
        let mut run = || -> std::result::Result<(), E> {
            for (frame, decode) in &read {
                let frame = frame?;
                let start_of_frame = Instant::now();
                let image = compute(stages.frames, frame)?;
                stages.frames += 1;
                stages.decode += decode;
                stages.compute += start_of_frame.elapsed();
                stages.total = start.elapsed();
                progress(&stages);
                // The writer ends early only with an error, which is found when it is joined.
                if image.is_some_and(|image| images.send(image).is_err()) {
                    break;
                }
            }
            Ok(())
        };
        let result = run();
        drop((images, read));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result?;
        stages.encode = written?;
        stages.total = start.elapsed();
        Ok(stages)
    })
}
