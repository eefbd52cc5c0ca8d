//! MOTChallenge's text: a line a box, `frame,id,left,top,width,height,score,class,visibility`, with frames, numbers and pixels
//! counted from 1 (<https://motchallenge.net/instructions>).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
};

use segkiln_core::BBox;

use crate::{Result, TrackError, error::check_file, metrics::FrameTracks};

/// A box of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct MotBox {
    /// Frame, from 0.
    pub frame: usize,
    /// Number of the object; none of a detection (`-1` in files).
    pub id: Option<u64>,
    /// The box in pixels, from 0.
    pub bbox: BBox,
    /// Score; in files of true boxes 1 if the box is to be counted, else 0.
    pub score: f64,
    /// Class, if the file says it.
    pub class: Option<i64>,
}

/// Largest number of a frame.
const MOST_FRAMES: usize = 1 << 24;

/// Reads a file, in the order of its lines. Boxes without an area are left out, as trackers write some at the borders.
///
/// # Errors
/// [`TrackError::Line`], naming the line, if it has less than six values or one that is no number; [`TrackError::Io`];
/// [`TrackError::FileSize`] above 256 MiB.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<MotBox>> {
    let path = path.as_ref();
    let io = |source| TrackError::Io { action: "read", path: path.into(), source };
    check_file(path)?;
    let mut boxes = Vec::new();
    for (index, line) in BufReader::new(File::open(path).map_err(io)?).lines().enumerate() {
        let line = line.map_err(io)?;
        if line.trim().is_empty() {
            continue;
        }
        boxes.extend(parse(&line).map_err(|reason| TrackError::Line { path: path.into(), line: index + 1, reason })?);
    }
    Ok(boxes)
}

fn parse(line: &str) -> std::result::Result<Option<MotBox>, String> {
    let values: Vec<&str> = line.split([',', ' ', '\t']).filter(|value| !value.is_empty()).collect();
    if values.len() < 6 {
        return Err(format!("{} values, at least 6 are needed: frame,id,left,top,width,height", values.len()));
    }
    let number = |index: usize| {
        let parsed = values[index].parse::<f64>().ok().filter(|value| value.is_finite());
        parsed.ok_or_else(|| format!("{:?} in column {} is no number", values[index], index + 1))
    };
    let whole = |index: usize, most: f64| {
        let value = number(index)?;
        let is_whole = value.fract() == 0.0 && value.abs() <= most;
        is_whole
            .then_some(value)
            .ok_or_else(|| format!("{value} in column {} is no whole number up to {most}", index + 1))
    };
    let frame = whole(0, MOST_FRAMES as f64)?;
    if frame < 1.0 {
        return Err(format!("frame {frame}: frames are counted from 1"));
    }
    let id = whole(1, 9e15)?;
    let (left, top, width, height) = (number(2)?, number(3)?, number(4)?, number(5)?);
    let score = if values.len() > 6 { number(6)? } else { 1.0 };
    let class = if values.len() > 7 { Some(number(7)? as i64) } else { None };
    if width <= 0.0 || height <= 0.0 {
        return Ok(None);
    }
    let bbox = BBox::from_xywh([left - 1.0, top - 1.0, width, height]).map_err(|error| error.to_string())?;
    let id = (id >= 0.0).then_some(id as u64);
    Ok(Some(MotBox { frame: frame as usize - 1, id, bbox, score, class: class.filter(|class| *class >= 0) }))
}

/// Writes a line of results.
///
/// # Errors
/// Errors of the writer.
pub fn write(mut writer: impl Write, line: &MotBox) -> std::io::Result<()> {
    let [x, y, width, height] = line.bbox.xywh();
    let id = line.id.map_or("-1".into(), |id| id.to_string());
    let class = line.class.unwrap_or(-1);
    let (frame, left, top, score) = (line.frame + 1, x + 1.0, y + 1.0, line.score);
    writeln!(writer, "{frame},{id},{left:.2},{top:.2},{width:.2},{height:.2},{score:.4},{class},-1")
}

/// Joins true boxes and those of a tracker to the frames that [`evaluate`](crate::metrics::evaluate) takes. True boxes of score 0,
/// which MOTChallenge does not count, and boxes without a number are left out.
pub fn frames(truth: &[MotBox], result: &[MotBox]) -> Vec<FrameTracks> {
    let mut frames: BTreeMap<usize, FrameTracks> = BTreeMap::new();
    for (boxes, is_truth) in [(truth, true), (result, false)] {
        for line in boxes.iter().filter(|line| !is_truth || line.score != 0.0) {
            let Some(id) = line.id else { continue };
            let frame = frames.entry(line.frame).or_default();
            if is_truth { &mut frame.truth } else { &mut frame.result }.push((id, line.bbox));
        }
    }
    frames.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let mut text = Vec::new();
        let bbox = BBox::from_xywh([0.5, 1.25, 10.0, 20.0]).unwrap();
        let line = MotBox { frame: 4, id: Some(7), bbox, score: 0.5, class: Some(3) };
        write(&mut text, &line).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "5,7,1.50,2.25,10.00,20.00,0.5000,3,-1\n");
        assert_eq!(parse(&text).unwrap(), Some(line));
        assert_eq!(parse("1, -1, 1, 1, 2, 2").unwrap().unwrap().id, None);
        assert_eq!(parse("1,1,1,1,0,2").unwrap(), None);
    }

    #[test]
    fn bad_lines_are_named() {
        for (line, words) in [
            ("1,2,3", "3 values"),
            ("0,1,1,1,2,2", "counted from 1"),
            ("1.5,1,1,1,2,2", "1.5 in column 1"),
            ("1e300,1,1,1,2,2", "column 1"),
            ("1,1,x,1,2,2", "\"x\" in column 3"),
            ("1,1,nan,1,2,2", "column 3"),
            ("1,1,1,1,1e12,2", "1e9"),
        ] {
            let reason = parse(line).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
        assert!(read("absent.txt").unwrap_err().to_string().contains("absent.txt"));
        assert!(read(".").unwrap_err().to_string().contains("not a file"));
    }
}
