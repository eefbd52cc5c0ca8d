use std::{fmt::Debug, mem::size_of_val};

use segkiln_core::{CoreError, Instance, Instances, LabelMap, Rle, Size};

use super::Motion;
use crate::{DataError, Result, TransformRng};

/// Annotation of an image that is transformed along with it: a [`LabelMap`], or [`Instances`].
///
/// A transform works on any target; the rules of each kind of target are given here.
///
/// **Label maps** move pixel by pixel.
///
/// **Objects** with a mask move as a label map in which they are: the moved mask is, to the pixel, what the moved map
/// has. Their boxes move exactly with flips, turns and resizes. A window clips them; where it cuts into the box of an
/// object with a mask, the box becomes that of what is left of the mask, and after a warp it is the mask's box always.
/// The box of an object without a mask becomes the hull of the pixels that show its inside. Objects are dropped when no
/// pixel of their mask, or no part of their box, is left; or when less than a given share is, as the crops' `min_visible`
/// says.
pub trait Target: Clone + Debug + Send + Sync + 'static {
    /// Width and height of the image in pixels.
    fn size(&self) -> Size;

    /// The target of the moved image.
    ///
    /// # Errors
    /// If that has no pixels, or too many.
    fn moved(self, motion: &Motion) -> Result<Self>;

    /// Column and row of a random pixel of the foreground, if there is any: in a map, of all pixels whose label is neither 0
    /// nor `ignore_index`, each equally likely; of objects, each other than of class `ignore_index` is equally likely, and
    /// then each pixel of its mask, or of its box.
    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]>;

    /// Labels the pixels of a rectangle within the image, given by its upper left corner and its width and height. Objects
    /// stay as they are.
    fn cover(&mut self, corner: [u32; 2], size: Size, label: u32);

    /// Size in memory, in bytes.
    fn bytes(&self) -> usize;
}

impl Target for LabelMap {
    fn size(&self) -> Size {
        self.size()
    }

    fn moved(self, motion: &Motion) -> Result<Self> {
        motion.labels(self)
    }

    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]> {
        let foreground = |label: &u32| *label != 0 && Some(*label) != ignore_index;
        let labels = self.as_slice();
        let count = labels.iter().filter(|label| foreground(label)).count();
        let nth = (count > 0).then(|| rng.below(count))?;
        let (at, _) = labels.iter().enumerate().filter(|(_, label)| foreground(label)).nth(nth)?;
        Some([at as u32 % self.width(), at as u32 / self.width()])
    }

    fn cover(&mut self, [left, top]: [u32; 2], Size { width, height }: Size, label: u32) {
        let columns = self.width() as usize;
        let rows = self.as_mut_slice().chunks_exact_mut(columns).skip(top as usize).take(height as usize);
        rows.for_each(|row| row[left as usize..][..width as usize].fill(label));
    }

    fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl Target for Instances {
    fn size(&self) -> Size {
        self.size()
    }

    fn moved(self, motion: &Motion) -> Result<Self> {
        let size = self.size();
        let Size { width, height } = motion.size(size);
        let instances = self.into_vec();
        let masks = moved_masks(&instances, size, motion)?;
        let moved =
            instances.into_iter().zip(masks).filter_map(|(instance, mask)| follow(instance, mask, size, motion));
        Self::new(width, height, moved.collect()).map_err(refused)
    }

    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]> {
        let candidates: Vec<&Instance> =
            self.as_slice().iter().filter(|instance| Some(instance.label()) != ignore_index).collect();
        let instance = candidates.get((!candidates.is_empty()).then(|| rng.below(candidates.len()))?)?;
        match instance.mask.as_ref().filter(|mask| mask.area() > 0) {
            Some(mask) => {
                let mut nth = rng.below(mask.area() as usize) as u32;
                let [first, _] = mask.runs().find(|[first, end]| {
                    let within = nth < end - first;
                    nth -= if within { 0 } else { end - first };
                    within
                })?;
                Some([(first + nth) / mask.height(), (first + nth) % mask.height()])
            }
            None => {
                let [x1, y1, x2, y2] = instance.bbox.clip(self.width(), self.height())?.xyxy();
                let mut pixel = |low: f64, high: f64| {
                    let (first, end) = (low.floor() as u32, high.ceil() as u32);
                    first + rng.below((end - first) as usize) as u32
                };
                Some([pixel(x1, x2), pixel(y1, y2)])
            }
        }
    }

    fn cover(&mut self, _corner: [u32; 2], _size: Size, _label: u32) {}

    fn bytes(&self) -> usize {
        let masks = self.as_slice().iter().filter_map(|instance| instance.mask.as_ref());
        size_of_val(self.as_slice()) + masks.map(|mask| size_of_val(mask.counts())).sum::<usize>()
    }
}

fn refused(error: CoreError) -> DataError {
    DataError::option("size after a transform", error.to_string())
}

/// The masks of objects moved; none where there was none, or nothing of it is left.
///
/// They are painted on a map with an id each, which is moved as any map is and taken apart again: one pass for all that do
/// not overlap, and another one for those that do.
fn moved_masks(instances: &[Instance], Size { width, height }: Size, motion: &Motion) -> Result<Vec<Option<Rle>>> {
    let mut moved = vec![None; instances.len()];
    let masks = (1..).zip(instances).filter_map(|(id, instance)| Some((id, instance.mask.as_ref()?)));
    let mut waiting: Vec<(u32, &Rle)> = masks.collect();
    while !waiting.is_empty() {
        let mut map = LabelMap::filled(width, height, 0);
        waiting.retain(|(id, mask)| !painted(&mut map, mask, *id));
        for (id, mask) in Rle::of_labels(&motion.labels_within(map, Some(0))?).map_err(refused)? {
            moved[id as usize - 1] = Some(mask);
        }
    }
    Ok(moved)
}

/// Labels the pixels of a mask, unless one of them has a label already.
fn painted(map: &mut LabelMap, mask: &Rle, id: u32) -> bool {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let labels = map.as_mut_slice();
    // Down the columns, as masks are stored.
    let indices = || {
        mask.runs().flat_map(move |[first, end]| {
            let (mut x, mut y) = (first as usize / height, first as usize % height);
            (first..end).map(move |_| {
                let index = y * width + x;
                y += 1;
                if y == height {
                    (x, y) = (x + 1, 0);
                }
                index
            })
        })
    };
    let free = indices().all(|index| labels[index] == 0);
    if free {
        indices().for_each(|index| labels[index] = id);
    }
    free
}

/// An object whose mask was moved; none if nothing is left of it, or less than is to be.
fn follow(mut instance: Instance, mask: Option<Rle>, size: Size, motion: &Motion) -> Option<Instance> {
    let area = |instance: &Instance| instance.mask.as_ref().map_or(instance.bbox.area(), |mask| mask.area().into());
    let before = area(&instance);
    let old = instance.bbox;
    instance.bbox = match (&mask, motion) {
        (None, _) if instance.mask.is_some() => return None,
        (Some(mask), Motion::Warp(_)) => mask.bbox()?,
        (Some(mask), Motion::Window(window)) => {
            let clipped = window.bbox(&old)?;
            if window.shifted(&old) == Some(clipped) { clipped } else { mask.bbox()? }
        }
        _ => motion.bbox(&old, size)?,
    };
    instance.mask = mask;
    match motion {
        Motion::Window(window) if ((area(&instance) / before) as f32) < window.min_visible => None,
        _ => Some(instance),
    }
}

#[cfg(test)]
mod tests {
    use segkiln_core::BBox;

    use super::*;
    use crate::{
        Image, Sample,
        transforms::{
            Affine, Border, CenterCrop, Cutout, ElasticDeformation, ForegroundCrop, HorizontalFlip, PadToMultiple,
            RandomCrop, RandomTurn90, Resize, ScaleJitter, Transform, VerticalFlip,
        },
    };

    const NOTHING: Border = Border::Constant { value: 0.0, label: 0 };
    const SIZE: [u32; 2] = [61, 47];

    fn sample<T>(target: T) -> Sample<T> {
        let [width, height] = SIZE;
        let image = Image::new(width, height, 1, vec![0.5; (width * height) as usize]).unwrap();
        Sample { name: "objects".into(), image, target }
    }

    fn rng(seed: u64) -> TransformRng {
        TransformRng::new(seed, 0, 0)
    }

    /// Ellipses of random places and sizes, of which the later hide the earlier ones.
    fn ellipses(count: u32, seed: u64) -> Vec<Rle> {
        let [width, height] = SIZE;
        let mut rng = rng(seed);
        (0..count)
            .map(|_| {
                let [x, y] = [rng.uniform(0.0, width as f32), rng.uniform(0.0, height as f32)];
                let [a, b] = [rng.uniform(1.0, 12.0), rng.uniform(1.0, 12.0)];
                let inside =
                    |column: u32, row: u32| ((column as f32 - x) / a).powi(2) + ((row as f32 - y) / b).powi(2) <= 1.0;
                Rle::from_fn(width, height, inside).unwrap()
            })
            .filter(|mask| mask.area() > 0)
            .collect()
    }

    /// A map in which the later masks hide the earlier ones, and its objects, whose classes are their ids.
    fn scene(count: u32, seed: u64) -> (LabelMap, Instances) {
        let [width, height] = SIZE;
        let mut map = LabelMap::filled(width, height, 0);
        for (id, mask) in (1..).zip(ellipses(count, seed)) {
            let inside = mask.to_mask();
            map.as_mut_slice().iter_mut().zip(inside).filter(|(_, inside)| *inside).for_each(|(label, _)| *label = id);
        }
        let instances = Instances::from_labels(&map, |id| id).unwrap();
        (map, instances)
    }

    fn object([x1, y1, x2, y2]: [f64; 4], label: u32) -> Instance {
        Instance::new(BBox::new(x1, y1, x2, y2).unwrap(), label).unwrap()
    }

    /// A transform of both kinds of samples.
    trait Both: Transform + Transform<Instances> {}

    impl<T: Transform + Transform<Instances>> Both for T {}

    fn transforms() -> Vec<Box<dyn Both>> {
        let affine = Affine::new().rotate([-180.0, 180.0]).unwrap().scale([0.5, 2.0]).unwrap().border(NOTHING);
        vec![
            Box::new(HorizontalFlip { p: 0.7 }),
            Box::new(VerticalFlip { p: 0.7 }),
            Box::new(RandomTurn90),
            Box::new(CenterCrop::new(30, 60).unwrap().border(NOTHING)),
            Box::new(RandomCrop::new(25, 20).unwrap().border(NOTHING)),
            Box::new(RandomCrop::new(90, 40).unwrap().border(NOTHING)),
            Box::new(PadToMultiple::new(32).unwrap().border(NOTHING)),
            Box::new(Resize::exact(100, 101).unwrap()),
            Box::new(Resize::shorter_side(20).unwrap()),
            Box::new(ScaleJitter::new([0.2, 2.0]).unwrap()),
            Box::new(affine.shear([-20.0, 20.0]).unwrap().translate([-0.2, 0.2]).unwrap()),
            Box::new(ElasticDeformation::new(4, 5.0).unwrap().border(NOTHING)),
        ]
    }

    #[test]
    fn objects_move_as_the_map_that_shows_them() {
        for seed in 0..12 {
            let (map, instances) = scene(15, seed);
            for transform in transforms() {
                let moved = Transform::<LabelMap>::apply(&*transform, sample(map.clone()), &mut rng(seed)).unwrap();
                let followed = transform.apply(sample(instances.clone()), &mut rng(seed)).unwrap();
                assert_eq!(followed.image, moved.image);
                assert_eq!(followed.target.size(), moved.target.size());
                let expected = Instances::from_labels(&moved.target, |id| id).unwrap();
                let masks = |instances: &Instances| -> Vec<(u32, Option<Rle>)> {
                    instances.as_slice().iter().map(|i| (i.label(), i.mask.clone())).collect()
                };
                assert_eq!(masks(&followed.target), masks(&expected), "{transform:?}");
            }
        }
    }

    #[test]
    fn objects_may_overlap() {
        let [width, height] = SIZE;
        let object = |mask: &Rle| Instance::new(mask.bbox().unwrap(), 1).unwrap().with_mask(mask.clone());
        let all: Vec<Instance> = ellipses(20, 3).iter().map(object).collect();
        let alone: Vec<Sample<Instances>> =
            all.iter().map(|i| sample(Instances::new(width, height, vec![i.clone()]).unwrap())).collect();
        for transform in transforms() {
            let together = sample(Instances::new(width, height, all.clone()).unwrap());
            let together = transform.apply(together, &mut rng(1)).unwrap().target.into_vec();
            let alone =
                alone.iter().flat_map(|one| transform.apply(one.clone(), &mut rng(1)).unwrap().target.into_vec());
            assert_eq!(together, alone.collect::<Vec<_>>(), "{transform:?}");
        }
    }

    #[test]
    fn boxes_stay_those_of_the_masks() {
        for seed in 0..12 {
            for transform in transforms() {
                let (_, instances) = scene(15, seed);
                let moved = transform.apply(sample(instances), &mut rng(seed)).unwrap();
                let resizes = ["Resize", "ScaleJitter"].iter().any(|name| format!("{transform:?}").starts_with(name));
                for instance in moved.target.as_slice() {
                    let seen = instance.mask.as_ref().unwrap().bbox().unwrap();
                    if !resizes {
                        assert_eq!(instance.bbox, seen, "{transform:?}");
                        continue;
                    }
                    // Half a pixel, and more only where thin parts vanish as the image shrinks.
                    let [[x1, y1, x2, y2], [u1, v1, u2, v2]] = [instance.bbox.xyxy(), seen.xyxy()];
                    assert!(u1 >= x1 - 0.5 && v1 >= y1 - 0.5 && u2 <= x2 + 0.5 && v2 <= y2 + 0.5);
                    let grown = moved.image.width() >= SIZE[0];
                    assert!(!grown || (u1 <= x1 + 0.5 && v1 <= y1 + 0.5 && u2 >= x2 - 0.5 && v2 >= y2 - 0.5));
                }
            }
        }
    }

    /// A box alone, moved; none if it was dropped.
    fn moved(bbox: [f64; 4], transform: impl Transform<Instances>) -> Option<[f64; 4]> {
        let [width, height] = SIZE;
        let mut target = object(bbox, 1);
        (target.crowd, target.difficult) = (true, true);
        let target = Instances::new(width, height, vec![target]).unwrap();
        let moved = transform.apply(sample(target), &mut rng(0)).unwrap().target.into_vec();
        assert!(moved.iter().all(|i| i.crowd && i.difficult && i.mask.is_none()));
        moved.first().map(|instance| instance.bbox.xyxy())
    }

    #[test]
    fn boxes_alone_move_exactly() {
        let bbox = [10.25, 5.5, 20.5, 40.0];
        assert_eq!(moved(bbox, HorizontalFlip { p: 1.0 }), Some([40.5, 5.5, 50.75, 40.0]));
        assert_eq!(moved(bbox, VerticalFlip { p: 1.0 }), Some([10.25, 7.0, 20.5, 41.5]));
        assert_eq!(moved(bbox, Resize::exact(122, 94).unwrap()), Some([20.5, 11.0, 41.0, 80.0]));
        assert_eq!(moved(bbox, CenterCrop::new(51, 37).unwrap()), Some([5.25, 0.5, 15.5, 35.0]));
        assert_eq!(moved(bbox, CenterCrop::new(31, 17).unwrap()), Some([0.0, 0.0, 5.5, 17.0]));
        assert_eq!(moved(bbox, CenterCrop::new(71, 57).unwrap()), Some([15.25, 10.5, 25.5, 45.0]));
        assert_eq!(moved(bbox, CenterCrop::new(19, 47).unwrap()), None);
        // Not clipped where nothing is cut.
        assert_eq!(moved([-1.0, 2.0, 5.0, 50.0], HorizontalFlip { p: 1.0 }), Some([56.0, 2.0, 62.0, 50.0]));
    }

    #[test]
    fn quarter_turns_of_boxes() {
        let [width, height] = SIZE;
        let target = Instances::new(width, height, vec![object([10.25, 5.5, 20.5, 40.0], 1)]).unwrap();
        let turned = |quarters| {
            let turned = sample(target.clone()).moved(&Motion::Turn(quarters)).unwrap().target;
            (turned.size(), turned.as_slice()[0].bbox.xyxy())
        };
        assert_eq!(turned(1), ((47, 61).into(), [5.5, 40.5, 40.0, 50.75]));
        assert_eq!(turned(2), ((61, 47).into(), [40.5, 7.0, 50.75, 41.5]));
        assert_eq!(turned(3), ((47, 61).into(), [7.0, 10.25, 41.5, 20.5]));
        assert_eq!(turned(4), ((61, 47).into(), [10.25, 5.5, 20.5, 40.0]));
    }

    #[test]
    fn a_turned_box_becomes_its_hull() {
        let turn = |degrees: f32| Affine::new().rotate([degrees; 2]).unwrap();
        // About the center (30.5, 23.5), counter-clockwise: (x, y) goes to (7 + y, 54 - x).
        assert_eq!(moved([25.0, 10.0, 40.0, 20.0], turn(90.0)), Some([17.0, 14.0, 27.0, 29.0]));
        let half = 0.5f64.sqrt() * 10.0;
        let hull = moved([25.5, 18.5, 35.5, 28.5], turn(45.0)).unwrap();
        let expected = [30.5 - half, 23.5 - half, 30.5 + half, 23.5 + half];
        // The pixels' centers are half a pixel within.
        assert!(hull.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1.0), "{hull:?} {expected:?}");
        // What leaves the image is cut off.
        let [x1, y1, ..] = moved([0.0, 0.0, 30.0, 20.0], turn(90.0)).unwrap();
        assert_eq!([x1, y1], [7.0, 24.0]);
        assert_eq!(moved([0.0, 20.0, 5.0, 25.0], turn(90.0)), None);
    }

    #[test]
    fn little_that_is_left_is_dropped() {
        let crop = |share| CenterCrop::new(31, 47).unwrap().min_visible(share).unwrap();
        // 15 columns are cut off on each side: a quarter of this is left.
        let bbox = [0.0, 0.0, 20.0, 10.0];
        assert_eq!(moved(bbox, crop(0.25)), Some([0.0, 0.0, 5.0, 10.0]));
        assert_eq!(moved(bbox, crop(0.26)), None);
        assert!(CenterCrop::new(1, 1).unwrap().min_visible(1.5).is_err());

        // Half of the box, but one of five pixels.
        let [width, height] = SIZE;
        let mask = Rle::from_fn(width, height, |x, y| y == 0 && (11..15).contains(&x) || (x, y) == (18, 3)).unwrap();
        let target = Instance::new(mask.bbox().unwrap(), 1).unwrap().with_mask(mask);
        let target = Instances::new(width, height, vec![target]).unwrap();
        let cut = |share| crop(share).apply(sample(target.clone()), &mut rng(0)).unwrap().target;
        let left = cut(0.2);
        // The box is that of what is left, not what is left of the box.
        assert_eq!(left.as_slice()[0].bbox.xyxy(), [3.0, 3.0, 4.0, 4.0]);
        assert!(cut(0.21).is_empty());
    }

    #[test]
    fn none_stay_none_and_mirrors_show_no_new_ones() {
        let [width, height] = SIZE;
        for transform in transforms() {
            let none = transform.apply(sample(Instances::new(width, height, vec![]).unwrap()), &mut rng(0)).unwrap();
            assert!(none.target.is_empty());
        }
        let (_, instances) = scene(5, 0);
        let wider = CenterCrop::new(3 * width, 3 * height).unwrap();
        let mirrored = wider.apply(sample(instances.clone()), &mut rng(0)).unwrap().target;
        for (moved, old) in mirrored.as_slice().iter().zip(instances.as_slice()) {
            assert_eq!(moved.mask.as_ref().unwrap().area(), old.mask.as_ref().unwrap().area());
        }
        assert_eq!(mirrored.len(), instances.len());
    }

    #[test]
    fn crops_aim_at_objects_with_and_without_masks() {
        let [width, height] = SIZE;
        let mask = Rle::from_fn(width, height, |x, y| (x, y) == (50, 40) || (x, y) == (3, 4)).unwrap();
        let masked = object([0.0, 0.0, 61.0, 47.0], 1).with_mask(mask);
        let target = Instances::new(width, height, vec![masked, object([7.5, 9.0, 8.5, 10.0], 2)]).unwrap();
        let mut seen: Vec<[u32; 2]> = (0..100).map(|seed| target.foreground(None, &mut rng(seed)).unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [[3, 4], [7, 9], [8, 9], [50, 40]]);
        let pixel = target.foreground(Some(1), &mut rng(0)).unwrap();
        assert!(pixel == [7, 9] || pixel == [8, 9]);
        for seed in 0..20 {
            let crop = ForegroundCrop::new(5, 5, 1.0).unwrap().ignore_index(Some(1));
            let cut = crop.apply(sample(target.clone()), &mut rng(seed)).unwrap().target;
            assert!(cut.as_slice().iter().any(|instance| instance.label() == 2));
        }
        let nothing = Instances::new(width, height, vec![object([70.0, 0.0, 80.0, 5.0], 1)]).unwrap();
        assert_eq!(nothing.foreground(None, &mut rng(0)), None);

        let covered = Cutout::new(2, [0.5, 0.9]).unwrap().label(Some(9));
        assert_eq!(covered.apply(sample(target.clone()), &mut rng(0)).unwrap().target, target);
    }
}
