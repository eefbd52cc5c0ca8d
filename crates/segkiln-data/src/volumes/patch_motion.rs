use serde::{Deserialize, Serialize};

use super::{Case, patches::Patch};
use crate::{DataError, Result, TransformRng};

/// Random rotation, scaling and mirroring of the patches that [`PatchesDataset`](super::PatchesDataset) draws: nnU-Net's spatial
/// augmentation (Isensee et al. 2021), without the elastic deformation, which nnU-Net leaves out too.
///
/// A patch turns about its middle in millimeters, so that thick slices do not shear what they show. It is taken from the whole
/// case: what turns into it was beside it, and only beyond the case's ends are zeros and the label of what is outside. Values are
/// linear between voxels, labels those of the nearest voxel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMotion {
    /// Share of the patches that turn, in `[0, 1]`.
    pub p_rotation: f32,
    /// Largest angle about each axis, either way, in degrees up to 180; first about the axis of the depth, then of the height, then of
    /// the width.
    pub rotation: f32,
    /// Share of the patches that are scaled, in `[0, 1]`.
    pub p_scaling: f32,
    /// Bounds of the scale, from 0.1 to 10; what is scaled by more than 1 looks larger.
    pub scaling: [f32; 2],
    /// Patches turn about the axis of the depth alone and keep the distance of their slices, so that no slice mixes with another.
    pub in_plane: bool,
    /// Whether half of the patches are mirrored along depth, height and width.
    pub mirror: [bool; 3],
}

impl PatchMotion {
    /// nnU-Net's choice: a fifth of the patches turn by up to 30° about each axis, a fifth are scaled by 0.7 to 1.4, and half are mirrored
    /// along each axis. A patch with a side more than 3 times as long as its depth, as patches of thick slices are, turns
    /// within its plane, by any angle.
    ///
    /// (nnU-Net's scale is that of the grid: its 0.7 enlarges.)
    pub fn nnunet(patch: [usize; 3]) -> Self {
        /// nnU-Net's `ANISO_THRESHOLD`.
        const FLAT: usize = 3;
        let in_plane = patch.iter().any(|side| *side > patch[0].saturating_mul(FLAT));
        let rotation = if in_plane { 180.0 } else { 30.0 };
        Self { p_rotation: 0.2, rotation, p_scaling: 0.2, scaling: [1.0 / 1.4, 1.0 / 0.7], in_plane, mirror: [true; 3] }
    }

    pub(super) fn check(&self) -> Result<()> {
        let within = |name: &'static str, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(DataError::option(name, format!("must be from {low} to {high}, is {value}"))),
        };
        within("p_rotation", self.p_rotation, 0.0, 1.0)?;
        within("p_scaling", self.p_scaling, 0.0, 1.0)?;
        within("rotation", self.rotation, 0.0, 180.0)?;
        let [low, high] = self.scaling;
        within("scaling", low, 0.1, 10.0)?;
        within("scaling", high, low, 10.0)
    }

    /// Draws the motion of a patch of voxels of `spacing`. As many numbers are drawn whatever comes of it.
    pub(super) fn draw(self, spacing: [f64; 3], rng: &mut TransformRng) -> DrawnMotion {
        let (turns, scales) = (rng.chance(self.p_rotation), rng.chance(self.p_scaling));
        let angles = [0, 1, 2].map(|axis| {
            let angle = f64::from(rng.uniform(-self.rotation, self.rotation)).to_radians();
            if turns && (axis == 0 || !self.in_plane) { angle } else { 0.0 }
        });
        let scale = f64::from(rng.uniform(self.scaling[0], self.scaling[1]));
        let scale = if scales { scale } else { 1.0 };
        let mirrored = self.mirror.map(|allowed| rng.chance(0.5) && allowed);
        let scales = [if self.in_plane { 1.0 } else { scale }, scale, scale];
        let turn = (angles != [0.0; 3] || scale != 1.0).then(|| PatchTurn::new(angles, scales, spacing));
        DrawnMotion { turn, mirrored }
    }
}

/// Motion of one patch.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrawnMotion {
    /// None where voxels stay whole.
    pub turn: Option<PatchTurn>,
    pub mirrored: [bool; 3],
}

/// The linear map from the steps between a patch's voxels to those between the case's.
#[derive(Debug, Clone, Copy)]
pub(super) struct PatchTurn([[f64; 3]; 3]);

impl PatchTurn {
    /// Turns about depth, height and width, in this order, and scales, in millimeters.
    pub fn new(angles: [f64; 3], scales: [f64; 3], spacing: [f64; 3]) -> Self {
        let [[sz, cz], [sy, cy], [sx, cx]] = angles.map(|angle| [angle.sin(), angle.cos()]);
        let about_depth = [[1.0, 0.0, 0.0], [0.0, cz, -sz], [0.0, sz, cz]];
        let about_height = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
        let about_width = [[cx, -sx, 0.0], [sx, cx, 0.0], [0.0, 0.0, 1.0]];
        let turn = product(about_width, product(about_height, about_depth));
        Self([0, 1, 2].map(|to| [0, 1, 2].map(|from| turn[to][from] * spacing[from] / scales[from] / spacing[to])))
    }

    /// The patch of a case of which the middle of what begins at `start` is the middle; `outside` is the label beyond the case.
    pub fn apply(&self, case: &Case, start: [usize; 3], size: [usize; 3], outside: u32) -> Patch {
        let of_case = case.image.geometry().size();
        let (channels, voxels) = (case.image.channels(), case.image.geometry().voxels());
        let mut out = Patch::filled(size, channels, outside);
        let middle = size.map(|side| (side - 1) as f64 / 2.0);
        let along = |axis: usize, steps: f64| self.0.map(|row| row[axis] * steps);
        let mut at = 0;
        for z in 0..size[0] {
            let of_slice = along(0, z as f64 - middle[0]);
            for y in 0..size[1] {
                let of_row = along(1, y as f64 - middle[1]);
                for x in 0..size[2] {
                    let of_column = along(2, x as f64 - middle[2]);
                    let place = [0, 1, 2].map(|axis| {
                        start[axis] as f64 + middle[axis] + of_slice[axis] + of_row[axis] + of_column[axis]
                    });
                    let nearest = inside(place.map(|place| (place + 0.5).floor()), of_case);
                    if let Some(voxel) = nearest {
                        out.labels[at] = case.labels.as_slice()[voxel];
                    }
                    let first = place.map(f64::floor);
                    for corner in 0..8 {
                        let step = [corner >> 2, corner >> 1 & 1, corner & 1].map(f64::from);
                        let Some(voxel) = inside([0, 1, 2].map(|axis| first[axis] + step[axis]), of_case) else {
                            continue;
                        };
                        let share = [0, 1, 2].map(|axis| 1.0 - (place[axis] - first[axis] - step[axis]).abs());
                        let weight = (share[0] * share[1] * share[2]) as f32;
                        for channel in 0..channels {
                            out.values[at * channels + channel] +=
                                weight * case.image.as_slice()[channel * voxels + voxel];
                        }
                    }
                    at += 1;
                }
            }
        }
        out
    }
}

/// Number of the voxel at a place of whole numbers, if the case has it.
fn inside(place: [f64; 3], size: [usize; 3]) -> Option<usize> {
    let is_inside = (0..3).all(|axis| place[axis] >= 0.0 && place[axis] < size[axis] as f64);
    let [z, y, x] = place.map(|place| place as usize);
    is_inside.then_some((z * size[1] + y) * size[2] + x)
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    a.map(|row| [0, 1, 2].map(|column| (0..3).map(|i| row[i] * b[i][column]).sum()))
}

impl Patch {
    /// Mirrors along depth, height and width where asked for.
    pub fn mirror(&mut self, axes: [bool; 3]) {
        if axes == [false; 3] {
            return;
        }
        let [depth, height, width] = self.size;
        let from = |length: usize, mirrored: bool, i: usize| if mirrored { length - 1 - i } else { i };
        let before = self.clone();
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    let [z_from, y_from] = [from(depth, axes[0], z), from(height, axes[1], y)];
                    let source = (z_from * height + y_from) * width + from(width, axes[2], x);
                    let target = (z * height + y) * width + x;
                    self.labels[target] = before.labels[source];
                    let values = &before.values[source * self.channels..(source + 1) * self.channels];
                    self.values[target * self.channels..(target + 1) * self.channels].copy_from_slice(values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use super::*;
    use crate::volumes::{Geometry, LabelVolume, Volume};

    /// Values and labels are the voxels' numbers.
    fn case(size: [usize; 3], spacing: [f64; 3]) -> Case {
        let geometry = Geometry::with_spacing(size, spacing).unwrap();
        let voxels = 0..geometry.voxels() as u32;
        let values = voxels.clone().map(|voxel| voxel as f32).collect();
        Case {
            name: "case".into(),
            image: Volume::new(geometry.clone(), 1, values).unwrap(),
            labels: LabelVolume::new(geometry, voxels.collect()).unwrap(),
        }
    }

    #[test]
    fn right_angles_move_voxels_whole() {
        // A quarter about the depth, of a plane of 3 × 3.
        let case = case([1, 3, 3], [4.0, 1.0, 1.0]);
        let turn = PatchTurn::new([FRAC_PI_2, 0.0, 0.0], [1.0; 3], [4.0, 1.0, 1.0]);
        let patch = turn.apply(&case, [0; 3], [1, 3, 3], 99);
        assert_eq!(patch.labels, [6, 3, 0, 7, 4, 1, 8, 5, 2]);
        for (value, label) in patch.values.iter().zip(&patch.labels) {
            assert!((value - *label as f32).abs() < 1e-5);
        }
        // Half as large, it ends within the patch.
        let patch = PatchTurn::new([0.0; 3], [0.5; 3], [1.0; 3]).apply(&case, [0; 3], [1, 3, 3], 99);
        assert_eq!((patch.labels[0], patch.values[0], patch.labels[4]), (99, 0.0, 4));
    }

    #[test]
    fn thick_slices_turn_in_millimeters() {
        // Slices of 3 mm: a quarter about the height takes one slice to three columns.
        let spacing = [3.0, 1.0, 1.0];
        let case = case([3, 1, 9], spacing);
        let turn = PatchTurn::new([0.0, FRAC_PI_2, 0.0], [1.0; 3], spacing);
        let patch = turn.apply(&case, [0; 3], [3, 1, 9], 99);
        assert_eq!([patch.labels[4], patch.labels[13], patch.labels[22]], [16, 13, 10]);
        // Three columns away is the next slice.
        assert_eq!([patch.labels[10], patch.labels[13], patch.labels[16]], [4, 13, 22]);
    }

    #[test]
    fn mirrors_along_each_axis() {
        let case = case([2, 2, 3], [1.0; 3]);
        let still = PatchTurn::new([0.0; 3], [1.0; 3], [1.0; 3]).apply(&case, [0; 3], [2, 2, 3], 99);
        assert_eq!(still.labels, (0..12).collect::<Vec<_>>());
        for (axes, first) in [([true, false, false], 6), ([false, true, false], 3), ([false, false, true], 2)] {
            let mut patch = still.clone();
            patch.mirror(axes);
            assert_eq!((patch.labels[0], patch.values[0]), (first, first as f32));
            patch.mirror(axes);
            assert_eq!(patch, still);
        }
    }

    #[test]
    fn draws_shares_within_the_bounds() {
        let motion = PatchMotion::nnunet([64; 3]);
        assert!(!motion.in_plane && PatchMotion::nnunet([16, 64, 64]).in_plane);
        let count = |motion: PatchMotion| {
            (0..1000).filter(|i| motion.draw([1.0; 3], &mut TransformRng::new(1, 0, *i)).turn.is_some()).count()
        };
        assert!((300..420).contains(&count(motion)), "{}", count(motion));
        assert_eq!(count(PatchMotion { p_rotation: 0.0, p_scaling: 0.0, ..motion }), 0);
        for wrong in [
            PatchMotion { p_rotation: f32::NAN, ..motion },
            PatchMotion { rotation: 181.0, ..motion },
            PatchMotion { scaling: [0.0, 1.0], ..motion },
            PatchMotion { scaling: [1.0, 0.5], ..motion },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
