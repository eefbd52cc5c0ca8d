/// The mean of a figure that exists for each image, such as the Hausdorff distance.
///
/// Images without the figure (`None`: both masks are empty) do not count. Images whose figure is infinite (one mask is
/// empty) make the mean infinite, so that a missed object cannot go unseen; [`finite_mean`](Self::finite_mean) leaves them
/// out and [`infinite`](Self::infinite) says how many they are.
///
/// ```
/// use segkiln_metrics::metrics::ImageMean;
///
/// let mut mean = ImageMean::default();
/// for distance in [Some(2.0), None, Some(4.0), Some(f64::INFINITY)] {
///     mean.push(distance);
/// }
/// assert_eq!(mean.mean(), Some(f64::INFINITY));
/// assert_eq!(mean.finite_mean(), Some(3.0));
/// assert_eq!((mean.images(), mean.infinite()), (3, 1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ImageMean {
    finite_sum: f64,
    finite: u64,
    infinite: u64,
}

impl ImageMean {
    /// Adds the figure of an image.
    pub fn push(&mut self, figure: Option<f64>) {
        match figure {
            Some(figure) if figure.is_finite() => {
                self.finite_sum += figure;
                self.finite += 1;
            }
            Some(_) => self.infinite += 1,
            None => {}
        }
    }

    /// Adds the images of another mean.
    pub fn merge(&mut self, other: &Self) {
        self.finite_sum += other.finite_sum;
        self.finite += other.finite;
        self.infinite += other.infinite;
    }

    /// The mean; infinite if that of any image is, `None` without images.
    pub fn mean(&self) -> Option<f64> {
        if self.infinite > 0 { Some(f64::INFINITY) } else { self.finite_mean() }
    }

    /// The mean of the images with a finite figure.
    pub fn finite_mean(&self) -> Option<f64> {
        (self.finite > 0).then(|| self.finite_sum / self.finite as f64)
    }

    /// Number of images that have the figure, finite or not.
    pub fn images(&self) -> u64 {
        self.finite + self.infinite
    }

    /// Number of images whose figure is infinite.
    pub fn infinite(&self) -> u64 {
        self.infinite
    }
}
