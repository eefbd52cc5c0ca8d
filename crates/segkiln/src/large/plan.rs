//! The tiles that a picture is cut into.

use std::ops::Range;

use segkiln_data::regions::{Level, Region};

use super::Seams;
use crate::tiles::starts;

/// Tiles begin at multiples of this, so that a network sees the same blocks of pixels as in the whole picture: 32 times the least
/// resolution of its maps, times the 4 pixels of Winograd's tiles.
const GRID: usize = 128;

/// A tile to be segmented.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tile {
    pub region: Region,
    /// Rows and columns that are kept of it.
    pub kept: [Range<usize>; 2],
}

impl Tile {
    /// The part of the picture that is kept of it.
    pub fn kept_region(&self) -> Region {
        let [rows, columns] = &self.kept;
        Region {
            left: self.region.left + columns.start as u32,
            top: self.region.top + rows.start as u32,
            width: columns.len() as u32,
            height: rows.len() as u32,
        }
    }
}

/// The tiles of a picture, row by row.
pub(super) struct Plan {
    pub seams: Seams,
    pub rows: Vec<Vec<Tile>>,
}

impl Plan {
    pub fn new(level: Level, tile: usize, reach: Option<usize>, overlap: f32) -> Self {
        let size = [level.height as usize, level.width as usize];
        if let Some(reach) = reach
            && let margin = reach.next_multiple_of(GRID)
            && let Some(inner) = tile.checked_sub(2 * margin)
            && inner >= GRID
        {
            let inner = inner / GRID * GRID;
            let spans = |side: usize| -> Vec<[Range<usize>; 2]> {
                let span = |first: usize| {
                    let (read, end) = (first.saturating_sub(margin), side.min(first + inner));
                    [read..side.min(first + inner + margin), first - read..end - read]
                };
                (0..side).step_by(inner).map(span).collect()
            };
            return Self::of(Seams::Margin(margin), spans(size[0]), spans(size[1]));
        }
        let spans = |side: usize| -> Vec<[Range<usize>; 2]> {
            let length = tile.min(side);
            starts(side, tile, overlap).into_iter().map(|first| [first..first + length, 0..length]).collect()
        };
        Self::of(Seams::Blended, spans(size[0]), spans(size[1]))
    }

    fn of(seams: Seams, rows: Vec<[Range<usize>; 2]>, columns: Vec<[Range<usize>; 2]>) -> Self {
        let tile = |[rows, kept_rows]: &[Range<usize>; 2], [columns, kept_columns]: &[Range<usize>; 2]| Tile {
            region: Region {
                left: columns.start as u32,
                top: rows.start as u32,
                width: columns.len() as u32,
                height: rows.len() as u32,
            },
            kept: [kept_rows.clone(), kept_columns.clone()],
        };
        Self { seams, rows: rows.iter().map(|row| columns.iter().map(|column| tile(row, column)).collect()).collect() }
    }

    pub fn tiles(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }
}
