//! A task is as many channels of one image as a register has values. It copies the pixels that the regions read to a map of its own
//! where these channels lie side by side; then a tap is one register, for any size of box.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::DType,
};
use pulp::{Simd, WithSimd};

use super::{
    RoiAlignOps, RoiAlignOptions,
    taps::{Roi, regions},
};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    matrix::RegisterSizes,
    memory::{Memory, contiguous, values, values_of, with_scratch, written},
    simd::{self, Lanes, MOST_LANES, prefetch, transpose},
    threads::for_each,
};

impl RoiAlignOps for Flex {
    fn roi_align(x: FloatTensor<Self>, rois: FloatTensor<Self>, options: RoiAlignOptions) -> FloatTensor<Self> {
        let dtype = x.dtype();
        let x = to_f32(x);
        let shape: [usize; 4] = x.layout().shape().dims();
        let tasks = Tasks::new(shape, rois, options);
        let source = Source::new(x);
        let bins = options.size[0] * options.size[1];
        // SAFETY: each region is of one image, and the tasks of that image write all its channels.
        let output = unsafe {
            written([tasks.rois.len(), shape[1], options.size[0], options.size[1]], Memory::Pooled, |target| {
                let target = Disjoint::new(target);
                tasks.run(bins, |task, map, tile| {
                    // Each task has its channels of its image's regions.
                    let target = target.part();
                    tasks.arch.dispatch(Forward { task, source: &source, map, tile, target });
                });
            })
        };
        from_f32(output, dtype)
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        rois: FloatTensor<Self>,
        shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        let dtype = grad.dtype();
        let grad = contiguous(to_f32(grad));
        let tasks = Tasks::new(shape, rois, options);
        let (bins, regions) = (options.size, tasks.rois.len());
        let found: [usize; 4] = grad.layout().shape().dims();
        assert_eq!(found, [regions, shape[1], bins[0], bins[1]], "the gradient's shape is not the output's");
        let grad = values(&grad);
        let bins = options.size[0] * options.size[1];
        // A gradient is used up soon, and new pages of memory would cost more than all that is computed here.
        // SAFETY: the tasks write all channels of all images.
        let output = unsafe {
            written(shape, Memory::Pooled, |target| {
                let target = Disjoint::new(target);
                tasks.run(bins, |task, map, tile| {
                    // Each task has its channels of its image.
                    let target = target.part();
                    tasks.arch.dispatch(Backward { task, grad, map, tile, target });
                });
            })
        };
        from_f32(output, dtype)
    }
}

fn to_f32(x: FlexTensor) -> FlexTensor {
    if x.dtype() == DType::F32 { x } else { Flex::float_cast(x, DType::F32.into()) }
}

fn from_f32(x: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::F32 { x } else { Flex::float_cast(x, dtype.into()) }
}

/// The regions, and how channels and images are split into tasks.
struct Tasks {
    /// The feature map's.
    shape: [usize; 4],
    /// Ordered by image.
    rois: Vec<Roi>,
    /// For each image and each of its [tiles](Tile), row by row: whether regions read it.
    read: Vec<bool>,
    arch: pulp::Arch,
    lanes: usize,
}

/// Some channels of one image.
#[derive(Clone, Copy)]
struct Task<'a> {
    shape: [usize; 4],
    image: usize,
    /// The first channel.
    channel: usize,
    /// Up to a register's values.
    channels: usize,
    rois: &'a [Roi],
    /// See [`Tasks::read`].
    read: &'a [bool],
}

/// Neighboring pixels of a row, as many as a register has values; fewer at the row's end.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    /// The first pixel's.
    column: usize,
    /// Number of pixels.
    columns: usize,
    /// Whether regions read some of them.
    read: bool,
}

impl Task<'_> {
    #[inline(always)]
    fn tiles(&self, lanes: usize) -> impl Iterator<Item = Tile> {
        let [_, _, _, width] = self.shape;
        let tiles = width.div_ceil(lanes);
        self.read.iter().enumerate().map(move |(index, read)| {
            let (row, column) = (index / tiles, index % tiles * lanes);
            Tile { row, column, columns: lanes.min(width - column), read: *read }
        })
    }
}

impl Tasks {
    fn new(shape: [usize; 4], rois: FlexTensor, options: RoiAlignOptions) -> Self {
        values_of(&shape);
        let rois = to_f32(rois).to_contiguous();
        let arch = simd::arch();
        let lanes = RegisterSizes::of(arch).lanes;
        let [batch, _, height, width] = shape;
        let tiles = width.div_ceil(lanes);
        let rois = regions(values(&rois), shape, &options);
        let mut read = vec![false; batch * height * tiles];
        for roi in &rois {
            let mut columns: Vec<usize> = roi.columns.taps().iter().map(|tap| tap.pixel as usize / lanes).collect();
            columns.dedup();
            for row in roi.rows.taps() {
                let start = (roi.image * height + row.pixel as usize) * tiles;
                for column in &columns {
                    read[start + column] = true;
                }
            }
        }
        Self { shape, rois, read, arch, lanes }
    }

    /// Runs `f` for each task, with memory for a map of `[height][width][lanes]` and for `[bins][lanes]`.
    fn run(&self, bins: usize, f: impl Fn(Task, &mut [f32], &mut [f32]) + Sync) {
        let [batch, channels, height, width] = self.shape;
        let (blocks, tiles) = (channels.div_ceil(self.lanes), width.div_ceil(self.lanes));
        for_each(batch * blocks, |index| {
            let (image, channel) = (index / blocks, index % blocks * self.lanes);
            let first = self.rois.partition_point(|roi| roi.image < image);
            let end = self.rois.partition_point(|roi| roi.image <= image);
            let task = Task {
                shape: self.shape,
                image,
                channel,
                channels: self.lanes.min(channels - channel),
                rois: &self.rois[first..end],
                read: &self.read[image * height * tiles..][..height * tiles],
            };
            let pixels = if task.rois.is_empty() { 0 } else { height * width };
            let [map, tile] =
                [pixels, bins].map(|len| len.checked_mul(self.lanes).expect("a map that fits the memory"));
            with_scratch([map, tile], |[map, tile]| f(task, map, tile));
        });
    }
}

/// Memory and layout of a feature map.
struct Source {
    x: FlexTensor,
    start: usize,
    strides: [usize; 4],
}

impl Source {
    /// Returns a layout in which columns or channels are neighbors in memory, all within the tensor's memory.
    ///
    /// # Panics
    /// If the tensor's memory is smaller than its shape says; anyone can make such a `FlexTensor`.
    fn new(x: FlexTensor) -> Self {
        let strides: Vec<usize> = x.layout().strides().iter().map_while(|stride| (*stride).try_into().ok()).collect();
        let strides = <[usize; 4]>::try_from(strides).ok().filter(|strides| strides[1] == 1 || strides[3] == 1);
        let source = match strides {
            Some(strides) => Self { start: x.layout().start_offset(), strides, x },
            None => {
                let x = x.to_contiguous();
                let [_, channels, height, width] = x.layout().shape().dims();
                Self { start: 0, strides: [channels * height * width, height * width, width, 1], x }
            }
        };
        let sides: [usize; 4] = source.x.layout().shape().dims();
        let last = sides.iter().zip(source.strides).try_fold(source.start, |last, (side, stride)| {
            last.checked_add(side.saturating_sub(1).checked_mul(stride)?)
        });
        let len = source.x.storage::<f32>().len();
        assert!(sides.contains(&0) || last.is_some_and(|last| last < len), "the tensor's memory has its shape");
        source
    }
}

/// Interleaves `columns` values of each of `rows`, which are `stride` apart: `[column][lanes]`, zeros in lanes without a row.
///
/// # Safety
/// The values can be read, there are at most as many rows as lanes, and `target` has room for as many registers as columns.
#[inline(always)]
unsafe fn interleave<S: Simd>(
    simd: S,
    source: *const f32,
    stride: usize,
    [rows, columns]: [usize; 2],
    target: *mut f32,
) {
    let mut column = 0;
    while column < columns {
        let count = S::F32_LANES.min(columns - column);
        let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
        // SAFETY: the caller's promise.
        unsafe {
            for (row, line) in square.iter_mut().enumerate().take(rows) {
                let source = source.add(row * stride + column);
                *line = if count == S::F32_LANES {
                    Lanes::load(simd, source)
                } else {
                    Lanes::load_first(simd, source, count)
                };
            }
            transpose(&mut square);
            for (index, line) in square.iter().enumerate().take(count) {
                line.store(target.add((column + index) * S::F32_LANES));
            }
        }
        column += count;
    }
}

/// The inverse of [`interleave`].
///
/// # Safety
/// The rows can be written, there are at most as many as lanes, and `source` has as many registers as columns.
#[inline(always)]
unsafe fn separate<S: Simd>(simd: S, source: *const f32, target: *mut f32, stride: usize, [rows, columns]: [usize; 2]) {
    let mut column = 0;
    while column < columns {
        let count = S::F32_LANES.min(columns - column);
        let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
        // SAFETY: the caller's promise.
        unsafe {
            for (index, line) in square.iter_mut().enumerate().take(count) {
                *line = Lanes::load(simd, source.add((column + index) * S::F32_LANES));
            }
            transpose(&mut square);
            for (row, line) in square.iter().enumerate().take(rows) {
                let target = target.add(row * stride + column);
                if count == S::F32_LANES {
                    line.store(target);
                } else {
                    line.store_first(target, count);
                }
            }
        }
        column += count;
    }
}

/// The bins of a task's regions.
struct Forward<'a> {
    task: Task<'a>,
    source: &'a Source,
    /// `[height][width][lanes]`
    map: &'a mut [f32],
    /// `[bins][lanes]`
    tile: &'a mut [f32],
    /// `[regions][channels][bins]`
    target: Part<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task, source, map, tile, target } = self;
        let [_, all_channels, height, width] = task.shape;
        let lanes = S::F32_LANES;
        assert!(task.rois.is_empty() || map.len() == height * width * lanes);
        let [image_stride, channel_stride, row_stride, column_stride] = source.strides;
        let values: &[f32] = source.x.storage();
        let start = source.start + task.image * image_stride + task.channel * channel_stride;
        for Tile { row, column, columns, .. } in task.tiles(lanes).filter(|tile| tile.read) {
            // SAFETY: the tensor has these rows, columns and channels, and the map these rows and columns.
            unsafe {
                let pixels = values.as_ptr().add(start + row * row_stride + column * column_stride);
                let target = map.as_mut_ptr().add((row * width + column) * lanes);
                if column_stride == 1 {
                    interleave(simd, pixels, channel_stride, [task.channels, columns], target);
                } else {
                    for index in 0..columns {
                        let pixel = pixels.add(index * column_stride);
                        Lanes::load_first(simd, pixel, task.channels).store(target.add(index * lanes));
                    }
                }
            }
        }
        let bins = tile.len() / lanes;
        for roi in task.rois {
            let output = target.at((roi.index * all_channels + task.channel) * bins, task.channels * bins);
            let mut bin = 0;
            for rows in roi.rows.bins() {
                for columns in roi.columns.bins() {
                    let mut sum = Lanes::splat(simd, 0.0);
                    for row in rows {
                        let mut line = Lanes::splat(simd, 0.0);
                        for column in columns {
                            let pixel = row.pixel as usize * width + column.pixel as usize;
                            // SAFETY: a region's taps are within the map's rows and columns, by `Axis::new`, and the map has a
                            // register for each pixel, by the assertion; those that regions read were written above.
                            let value = unsafe { Lanes::load(simd, map.as_ptr().add(pixel * lanes)) };
                            line = value.scaled_plus(column.weight, line);
                        }
                        sum = line.scaled_plus(row.weight, sum);
                    }
                    // The output is in no cache, and it is as many cache lines as there are bins.
                    prefetch(output.wrapping_add(bin * lanes));
                    sum.store_to(tile, bin * lanes);
                    bin += 1;
                }
            }
            // SAFETY: the tile has a register for each bin, and the output these bins of these channels.
            unsafe { separate(simd, tile.as_ptr(), output, bins, [task.channels, bins]) };
        }
    }
}

/// The gradient of a task's channels.
struct Backward<'a> {
    task: Task<'a>,
    /// `[regions][channels][bins]`
    grad: &'a [f32],
    /// `[height][width][lanes]`
    map: &'a mut [f32],
    /// `[bins][lanes]`
    tile: &'a mut [f32],
    /// `[batch][channels][height][width]`
    target: Part<'a>,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task, grad, map, tile, target } = self;
        let [_, all_channels, height, width] = task.shape;
        let lanes = S::F32_LANES;
        assert!(task.rois.is_empty() || map.len() == height * width * lanes);
        let bins = tile.len() / lanes;
        for Tile { row, column, columns, .. } in task.tiles(lanes).filter(|tile| tile.read) {
            map[(row * width + column) * lanes..][..columns * lanes].fill(0.0);
        }
        for (index, roi) in task.rois.iter().enumerate() {
            let next = task.rois.get(index + 1).unwrap_or(roi);
            let next = grad[(next.index * all_channels + task.channel) * bins..].as_ptr();
            // SAFETY: the gradient has these bins of these channels, and the tile room for the bins.
            unsafe {
                let grad = grad[(roi.index * all_channels + task.channel) * bins..].as_ptr();
                interleave(simd, grad, bins, [task.channels, bins], tile.as_mut_ptr());
            }
            let mut bin = 0;
            for rows in roi.rows.bins() {
                for columns in roi.columns.bins() {
                    let grad = Lanes::load_from(simd, tile, bin * lanes);
                    prefetch(next.wrapping_add(bin * lanes));
                    bin += 1;
                    for row in rows {
                        let grad = grad * row.weight;
                        for column in columns {
                            let pixel = row.pixel as usize * width + column.pixel as usize;
                            // SAFETY: a region's taps are within the map's rows and columns, by `Axis::new`, and the map has a
                            // register for each pixel, by the assertion; those that regions read were cleared above.
                            unsafe {
                                let pixel = map.as_mut_ptr().add(pixel * lanes);
                                grad.scaled_plus(column.weight, Lanes::load(simd, pixel)).store(pixel);
                            }
                        }
                    }
                }
            }
        }
        let start = (task.image * all_channels + task.channel) * height * width;
        for Tile { row, column, columns, read } in task.tiles(lanes) {
            let target = target.rows(start + row * width + column, height * width, task.channels, columns);
            // SAFETY: the target has these columns of these channels, and the map these pixels.
            unsafe {
                if read {
                    let pixels = map.as_ptr().add((row * width + column) * lanes);
                    separate(simd, pixels, target, height * width, [task.channels, columns]);
                } else {
                    for channel in 0..task.channels {
                        target.add(channel * height * width).write_bytes(0, columns);
                    }
                }
            }
        }
    }
}
