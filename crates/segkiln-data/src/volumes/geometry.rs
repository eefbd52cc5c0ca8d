use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

/// Size of a volume and the place of its voxels in the patient.
///
/// ```
/// use segkiln_data::volumes::Geometry;
///
/// // 40 slices of 3 mm, of 256x256 pixels of 0.9 mm
/// let geometry = Geometry::with_spacing([40, 256, 256], [3.0, 0.9, 0.9])?;
/// assert_eq!(geometry.spacing(), [3.0, 0.9, 0.9]);
/// assert_eq!(geometry.axis_codes().to_string(), "RAS");
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Geometry {
    size: [usize; 3],
    affine: [[f64; 4]; 4],
}

/// A geometry as read from a file, not validated yet.
#[derive(Deserialize)]
struct Unchecked {
    size: [usize; 3],
    affine: [[f64; 4]; 4],
}

impl TryFrom<Unchecked> for Geometry {
    type Error = DataError;

    fn try_from(file: Unchecked) -> Result<Self> {
        Self::new(file.size, file.affine)
    }
}

impl Geometry {
    /// Creates the geometry of `size` voxels (depth, height, width) with the affine that takes (column, row, slice, 1) to
    /// millimeters to the patient's right, anterior and superior.
    ///
    /// # Errors
    /// If a side is 0, there are more voxels than memory can have, or the affine is not finite, singular, or no affine.
    pub fn new(size: [usize; 3], affine: [[f64; 4]; 4]) -> Result<Self> {
        check_size(size)?;
        let refused = |reason: &str| Err(DataError::option("affine", format!("{reason}: {affine:?}")));
        if affine.iter().flatten().any(|value| !value.is_finite()) {
            return refused("must be finite");
        }
        if affine[3] != [0.0, 0.0, 0.0, 1.0] {
            return refused("must have 0, 0, 0, 1 as its last row");
        }
        let geometry = Self { size, affine };
        let lengths: f64 = geometry.spacing().iter().product();
        // Divided by the columns' lengths, the determinant is 1 for right angles and 0 for axes in one plane.
        if lengths == 0.0 || !lengths.is_finite() || (determinant(&geometry.matrix()) / lengths).abs() < 1e-6 {
            return refused("is singular: its axes do not span space; correct the header's spacing and directions");
        }
        Ok(geometry)
    }

    /// Creates the geometry of `size` voxels along the patient's axes, with voxels of `spacing` millimeters (depth, height, width).
    ///
    /// # Errors
    /// If a side is 0, or a spacing is not positive and finite.
    pub fn with_spacing(size: [usize; 3], spacing: [f64; 3]) -> Result<Self> {
        check_spacing(spacing)?;
        let [z, y, x] = spacing;
        Self::new(size, [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0], [0.0, 0.0, 0.0, 1.0]])
    }

    /// Depth, height and width in voxels.
    pub fn size(&self) -> [usize; 3] {
        self.size
    }

    /// Number of voxels.
    pub fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// The affine from (column, row, slice, 1) to RAS+ in millimeters, row by row.
    pub fn affine(&self) -> &[[f64; 4]; 4] {
        &self.affine
    }

    /// Depth, height and width of a voxel in millimeters: the lengths of the affine's columns, as nibabel's `voxel_sizes`.
    pub fn spacing(&self) -> [f64; 3] {
        [2, 1, 0].map(|axis| self.column(axis).iter().map(|value| value * value).sum::<f64>().sqrt())
    }

    /// Direction of the patient that each axis is closest to, as nibabel's `aff2axcodes` from version 5.4 on.
    pub fn axis_codes(&self) -> AxisCodes {
        let mut rotation = closest_rotation(self.matrix(), self.spacing());
        let strongest = |axis: usize| rotation.iter().map(|row| row[axis] * row[axis]).fold(0.0, f64::max);
        let strengths = [0, 1, 2].map(strongest);
        // The axis that is closest to a direction takes it first, so that the codes do not depend on the order of the axes.
        let mut order = [0, 1, 2];
        order.sort_by(|a, b| strengths[*b].total_cmp(&strengths[*a]));
        let mut axes = [Direction::default(); 3];
        for axis in order {
            let world =
                (0..3).max_by(|a, b| rotation[*a][axis].abs().total_cmp(&rotation[*b][axis].abs()).then(b.cmp(a)));
            let world = world.unwrap_or_default();
            axes[axis] = Direction { world, positive: rotation[world][axis] >= 0.0 };
            rotation[world] = [0.0; 3];
        }
        AxisCodes(axes)
    }

    /// Largest angle between an axis and the same one of another geometry, in radians.
    pub(super) fn angle_to(&self, other: &Self) -> f64 {
        let angle = |axis: usize| {
            let (a, b) = (self.column(axis), other.column(axis));
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let cross = [0, 1, 2].map(|i| a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3]);
            // Of small angles the arc cosine would lose half of the digits.
            cross.iter().map(|value| value * value).sum::<f64>().sqrt().atan2(dot)
        };
        (0..3).map(angle).fold(0.0, f64::max)
    }

    fn column(&self, axis: usize) -> [f64; 3] {
        [0, 1, 2].map(|row| self.affine[row][axis])
    }

    /// The linear part of the affine: rotation, scale and shear.
    fn matrix(&self) -> [[f64; 3]; 3] {
        [0, 1, 2].map(|row| [0, 1, 2].map(|axis| self.affine[row][axis]))
    }

    /// The geometry whose grid covers the same space with other voxels: the outer edges coincide.
    pub(super) fn resized(&self, size: [usize; 3]) -> Result<Self> {
        check_size(size)?;
        let mut affine = self.affine;
        for axis in 0..3 {
            let scale = self.size[2 - axis] as f64 / size[2 - axis] as f64;
            for row in affine.iter_mut().take(3) {
                row[3] += row[axis] * (scale - 1.0) / 2.0;
                row[axis] *= scale;
            }
        }
        Self::new(size, affine)
    }

    /// The geometry with its axes in other directions, and how its voxels move there.
    pub(super) fn reoriented(&self, codes: AxisCodes) -> (Self, Turn) {
        let own = self.axis_codes();
        let size = |axis: usize| self.size[2 - axis];
        let mut turned = self.clone();
        let mut turn = Turn { from: [0; 3], flipped: [false; 3] };
        for (axis, target) in codes.0.iter().enumerate() {
            let from = own.0.iter().position(|own| own.world == target.world).unwrap_or(axis);
            let flipped = own.0[from].positive != target.positive;
            turn.from[axis] = from;
            turn.flipped[axis] = flipped;
            turned.size[2 - axis] = size(from);
            for (row, before) in turned.affine.iter_mut().zip(&self.affine).take(3) {
                row[axis] = if flipped { -before[from] } else { before[from] };
                if flipped {
                    row[3] += before[from] * (size(from) - 1) as f64;
                }
            }
        }
        (turned, turn)
    }
}

/// The axis that each axis of a turned volume comes from (column, row, slice), and whether it runs the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub from: [usize; 3],
    pub flipped: [bool; 3],
}

/// Directions of a volume's columns, rows and slices: three letters, one of each of the pairs left and right (`L`, `R`),
/// posterior and anterior (`P`, `A`), inferior and superior (`I`, `S`). `RAS` is canonical.
///
/// ```
/// use segkiln_data::volumes::AxisCodes;
///
/// let codes: AxisCodes = "LPS".parse()?;
/// assert_eq!(codes.to_string(), "LPS");
/// assert_eq!("RAS".parse::<AxisCodes>()?, AxisCodes::CANONICAL);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AxisCodes([Direction; 3]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Direction {
    /// 0 for left to right, 1 for posterior to anterior, 2 for inferior to superior.
    world: usize,
    positive: bool,
}

const LETTERS: [[char; 2]; 3] = [['L', 'R'], ['P', 'A'], ['I', 'S']];

impl AxisCodes {
    /// `RAS`.
    pub const CANONICAL: Self = Self([
        Direction { world: 0, positive: true },
        Direction { world: 1, positive: true },
        Direction { world: 2, positive: true },
    ]);
}

impl std::fmt::Display for AxisCodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|axis| write!(f, "{}", LETTERS[axis.world][usize::from(axis.positive)]))
    }
}

impl std::str::FromStr for AxisCodes {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        let direction = |letter: char| {
            let world = LETTERS.iter().position(|pair| pair.contains(&letter))?;
            Some(Direction { world, positive: letter == LETTERS[world][1] })
        };
        let axes: Option<Vec<Direction>> = text.chars().map(direction).collect();
        match axes.as_deref() {
            Some(&[x, y, z]) if x.world != y.world && y.world != z.world && x.world != z.world => Ok(Self([x, y, z])),
            _ => {
                let reason = format!("must be three letters, one each of L or R, P or A, I or S; got {text:?}");
                Err(DataError::option("axis codes", reason))
            }
        }
    }
}

pub(super) fn check_spacing(spacing: [f64; 3]) -> Result<()> {
    match spacing.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => Err(DataError::option("spacing", format!("must be positive and finite, got {value}"))),
        None => Ok(()),
    }
}

fn check_size(size: [usize; 3]) -> Result<()> {
    let most = isize::MAX as usize / 8;
    let voxels = size.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    match voxels {
        Some(1..)
            if voxels.is_some_and(|voxels| voxels <= most)
                && size.iter().all(|length| u32::try_from(*length).is_ok()) =>
        {
            Ok(())
        }
        _ => Err(DataError::option("size", format!("{size:?} voxels are none, or more than memory can have"))),
    }
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// The orthogonal matrix nearest to the matrix of directions, by Newton's iteration for the polar decomposition (Higham 1986);
/// of axes that are orthogonal already, these.
fn closest_rotation(matrix: [[f64; 3]; 3], [z, y, x]: [f64; 3]) -> [[f64; 3]; 3] {
    let lengths = [x, y, z];
    let mut rotation = matrix.map(|row| [0, 1, 2].map(|axis| row[axis] / lengths[axis]));
    // It converges quadratically; a shear that passed as regular needs some twenty steps.
    for _ in 0..40 {
        let scale = determinant(&rotation);
        let next: [[f64; 3]; 3] = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
                let cofactor = rotation[a][c] * rotation[b][d] - rotation[a][d] * rotation[b][c];
                (rotation[i][j] + cofactor / scale) / 2.0
            })
        });
        let change = next.iter().flatten().zip(rotation.iter().flatten()).map(|(a, b)| (a - b).abs());
        let change = change.fold(0.0, f64::max);
        rotation = next;
        if change < 1e-12 {
            break;
        }
    }
    rotation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_and_affines_that_are_none_are_refused() {
        let message = |affine| Geometry::new([2, 3, 4], affine).unwrap_err().to_string();
        let mut affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        affine[2] = [0.0, 1.0, 0.0, 0.0];
        assert!(message(affine).contains("singular"));
        affine[2] = [0.0, 0.0, f64::NAN, 0.0];
        assert!(message(affine).contains("finite"));
        affine[2] = [0.0, 0.0, 1.0, 0.0];
        affine[3] = [0.0, 0.0, 0.0, 2.0];
        assert!(message(affine).contains("last row"));
        assert!(Geometry::with_spacing([0, 1, 1], [1.0; 3]).is_err());
        assert!(Geometry::with_spacing([1, 1, 1], [1.0, -1.0, 1.0]).is_err());
        assert!(Geometry::with_spacing([usize::MAX, 2, 1], [1.0; 3]).is_err());
        // Files are checked too.
        let good = Geometry::with_spacing([1, 2, 3], [1.0; 3]).unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Geometry>(&text).unwrap(), good);
        assert!(serde_json::from_str::<Geometry>(&text.replace("[1,2,3]", "[0,2,3]")).is_err());
        for codes in ["", "RA", "RAR", "RASS", "ras", "RAX"] {
            assert!(codes.parse::<AxisCodes>().is_err(), "{codes}");
        }
    }

    #[test]
    fn resized_grids_cover_the_same_space() {
        let geometry = Geometry::with_spacing([4, 6, 8], [2.0, 1.0, 0.5]).unwrap();
        let resized = geometry.resized([2, 3, 16]).unwrap();
        assert_eq!(resized.spacing(), [4.0, 2.0, 0.25]);
        // The outer corner of the first voxel stays where it is.
        let corner =
            |g: &Geometry| [0, 1, 2].map(|row| g.affine[row][3] - g.affine[row][..3].iter().sum::<f64>() / 2.0);
        assert_eq!(corner(&resized), corner(&geometry));
    }

    /// By nibabel 5.4.2; oblique, so that the first axis is not the one that chooses first.
    #[test]
    fn codes_of_oblique_axes_are_those_of_nibabel() {
        let affine = [
            [-0.390646, 0.718375, 1.063655, 23.1],
            [-0.403898, -0.287565, -1.902293, -16.9],
            [-0.210385, -0.781821, 1.677027, -17.2],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let geometry = Geometry::new([5, 6, 8], affine).unwrap();
        assert_eq!(geometry.axis_codes().to_string(), "LIP");
        // The columns in another order have the same letters in that order.
        let turned = affine.map(|row| [row[2], row[0], row[1], row[3]]);
        let turned = Geometry::new([6, 8, 5], turned).unwrap();
        assert_eq!(turned.axis_codes().to_string(), "PLI");
    }
}
