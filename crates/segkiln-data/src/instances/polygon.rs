//! Outlines of objects along the edges of pixels.

use std::collections::HashMap;

use super::{ObjectRun, components::root};

/// An outline with holes, each ring a list of corners `[x, y]` in pixels from the picture's upper left corner, of which the last is joined
/// with the first. On a screen the outline runs counterclockwise and holes clockwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polygon {
    /// The outline.
    pub exterior: Vec<[u32; 2]>,
    /// Holes, from the top.
    pub holes: Vec<Vec<[u32; 2]>>,
}

impl Polygon {
    /// Area without holes, in pixels.
    pub fn area(&self) -> f64 {
        let doubled: i128 = self.rings().map(|ring| signed_area(ring)).sum();
        -doubled as f64 / 2.0
    }

    /// The outline, then the holes.
    pub fn rings(&self) -> impl Iterator<Item = &Vec<[u32; 2]>> {
        std::iter::once(&self.exterior).chain(&self.holes)
    }

    /// Leaves out corners that are not farther than `tolerance` pixels from the line without them (Ramer, 1972; Douglas and Peucker,
    /// 1973). A ring that would become a line, or turn over, stays as it is. Outlines of neighbors are simplified without regard to each
    /// other.
    #[must_use]
    pub fn simplified(&self, tolerance: f64) -> Self {
        let ring = |ring: &Vec<[u32; 2]>| {
            let simple = simplify(ring, tolerance);
            let keeps = simple.len() > 2 && signed_area(&simple).signum() == signed_area(ring).signum();
            if keeps { simple } else { ring.clone() }
        };
        Self { exterior: ring(&self.exterior), holes: self.holes.iter().map(ring).collect() }
    }
}

/// Twice the area of a ring: negative where it runs counterclockwise on a screen.
fn signed_area(ring: &[[u32; 2]]) -> i128 {
    let next = ring.iter().cycle().skip(1);
    let corners = ring.iter().zip(next);
    corners.map(|(a, b)| i128::from(a[0]) * i128::from(b[1]) - i128::from(b[0]) * i128::from(a[1])).sum()
}

/// Directions on a screen, each to the left of the one before.
#[derive(Debug, Clone, Copy)]
enum Way {
    Right,
    Up,
    Left,
    Down,
}

const WAYS: [Way; 4] = [Way::Right, Way::Up, Way::Left, Way::Down];

/// Edges of an object, which lies to their left: at the corner where they begin, the corner where that of each way ends.
#[derive(Default)]
struct Edges {
    at: HashMap<[u32; 2], [Option<[u32; 2]>; 4]>,
    /// Beginnings of those to the right.
    starts: Vec<[u32; 2]>,
}

impl Edges {
    fn add(&mut self, from: [u32; 2], to: [u32; 2], way: Way) {
        self.at.entry(from).or_default()[way as usize] = Some(to);
    }

    /// The edges of an object, given by its runs from the top and from the left.
    fn of(runs: &[ObjectRun]) -> Self {
        let mut edges = Self::default();
        // The first rows of the lines of left and right ends that go on.
        let mut lines: [HashMap<u32, u32>; 2] = Default::default();
        let mut above: &[ObjectRun] = &[];
        for row in runs.chunk_by(|a, b| a.row == b.row) {
            let y = row[0].row;
            if above.first().is_some_and(|run| run.row + 1 < y) {
                edges.between(above[0].row + 1, above, &[], &mut lines);
                above = &[];
            }
            edges.between(y, above, row, &mut lines);
            above = row;
        }
        if let Some(last) = above.first() {
            edges.between(last.row + 1, above, &[], &mut lines);
        }
        edges
    }

    /// Edges between two rows, and those of lines that end there.
    fn between(&mut self, y: u32, above: &[ObjectRun], below: &[ObjectRun], lines: &mut [HashMap<u32, u32>; 2]) {
        difference(above, below, |start, end| {
            self.add([start, y], [end, y], Way::Right);
            self.starts.push([start, y]);
        });
        difference(below, above, |start, end| self.add([end, y], [start, y], Way::Left));
        let has_start = |row: &[ObjectRun], x: u32| row.binary_search_by_key(&x, |run| run.start).is_ok();
        let has_end = |row: &[ObjectRun], x: u32| row.binary_search_by_key(&x, |run| run.end).is_ok();
        for ObjectRun { start, end, .. } in above {
            if !has_start(below, *start)
                && let Some(first) = lines[0].remove(start)
            {
                self.add([*start, first], [*start, y], Way::Down);
            }
            if !has_end(below, *end)
                && let Some(first) = lines[1].remove(end)
            {
                self.add([*end, y], [*end, first], Way::Up);
            }
        }
        for ObjectRun { start, end, .. } in below {
            if !has_start(above, *start) {
                lines[0].insert(*start, y);
            }
            if !has_end(above, *end) {
                lines[1].insert(*end, y);
            }
        }
    }

    fn take(&mut self, corner: [u32; 2], way: Way) -> Option<[u32; 2]> {
        self.at.get_mut(&corner)?[way as usize].take()
    }

    /// Takes the edges of a ring that begins with an edge to the right. Where four edges meet, it turns left and stays at its pixel.
    fn ring(&mut self, start: [u32; 2]) -> Vec<[u32; 2]> {
        let mut ring = Vec::new();
        let mut next = self.take(start, Way::Right).map(|end| (end, Way::Right));
        while let Some((corner, way)) = next {
            ring.push(corner);
            // The next edge to the left is the first one. Where rings meet at this corner, that to the right is of another ring.
            if corner == start && matches!(way, Way::Down) {
                break;
            }
            let turns = [WAYS[(way as usize + 1) % 4], WAYS[(way as usize + 3) % 4]];
            next = turns.into_iter().find_map(|way| self.take(corner, way).map(|end| (end, way)));
        }
        ring
    }
}

/// The outlines of an object, given by its runs from the top and from the left.
pub(super) fn trace(runs: &[ObjectRun]) -> Vec<Polygon> {
    let mut edges = Edges::of(runs);
    let (mut exteriors, mut holes) = (Vec::new(), Vec::new());
    for start in std::mem::take(&mut edges.starts) {
        // Empty where the edge is of a ring that was found before.
        for ring in simple_rings(edges.ring(start)).into_iter().filter(|ring| !ring.is_empty()) {
            if signed_area(&ring) < 0 { exteriors.push(from_first(ring)) } else { holes.push(from_first(ring)) }
        }
    }
    let first = |ring: &Vec<[u32; 2]>| [ring[0][1], ring[0][0]];
    exteriors.sort_by_key(first);
    holes.sort_by_key(first);
    let parts = parts(runs);
    let part_at = |x: u32, y: u32| parts.get(runs.partition_point(|run| (run.row, run.end) <= (y, x))).copied();
    let mut polygons: Vec<Polygon> =
        exteriors.into_iter().map(|exterior| Polygon { exterior, holes: Vec::new() }).collect();
    // A part has one outline, whose first corner has the part's pixel to its lower right.
    let of_part: HashMap<Option<u32>, usize> =
        polygons.iter().map(|polygon| part_at(polygon.exterior[0][0], polygon.exterior[0][1])).zip(0..).collect();
    for hole in holes {
        // The first corner of a hole has the part's pixel to its upper right.
        let part = part_at(hole[0][0], hole[0][1] - 1);
        if let Some(at) = of_part.get(&part) {
            polygons[*at].holes.push(hole);
        }
    }
    polygons
}

/// Index of the first run of each run's part: parts are connected along edges of pixels.
fn parts(runs: &[ObjectRun]) -> Vec<u32> {
    let mut parents: Vec<u32> = (0..runs.len() as u32).collect();
    let mut first = 0;
    for (at, run) in (0..).zip(runs) {
        while (runs[first].row + 1, runs[first].end) <= (run.row, run.start) {
            first += 1;
        }
        let above = runs[first..].iter().take_while(|other| (other.row + 1, other.start) < (run.row, run.end));
        for (other, _) in (first as u32..).zip(above) {
            let (one, two) = (root(&mut parents, other), root(&mut parents, at));
            parents[one.max(two) as usize] = one.min(two);
        }
    }
    // Parents come before their children.
    (0..parents.len()).for_each(|at| parents[at] = parents[parents[at] as usize]);
    parents
}

/// The parts of one row's runs that no run of another covers.
fn difference(runs: &[ObjectRun], others: &[ObjectRun], mut part: impl FnMut(u32, u32)) {
    let mut first = 0;
    for run in runs {
        let mut start = run.start;
        while others.get(first).is_some_and(|other| other.end <= start) {
            first += 1;
        }
        for other in others[first..].iter().take_while(|other| other.start < run.end) {
            if other.start > start {
                part(start, other.start);
            }
            start = other.end;
        }
        if start < run.end {
            part(start, run.end);
        }
    }
}

/// Cuts a ring at the corners that it meets twice.
fn simple_rings(ring: Vec<[u32; 2]>) -> Vec<Vec<[u32; 2]>> {
    let (mut rings, mut path) = (Vec::new(), Vec::new());
    let mut places: HashMap<[u32; 2], usize> = HashMap::with_capacity(ring.len());
    for corner in ring {
        if let Some(at) = places.get(&corner).copied() {
            let inner: Vec<[u32; 2]> = path.drain(at..).collect();
            inner.iter().for_each(|corner| {
                places.remove(corner);
            });
            rings.push(inner);
        }
        places.insert(corner, path.len());
        path.push(corner);
    }
    rings.push(path);
    rings
}

/// The ring from its first corner on, from the top and from the left.
fn from_first(mut ring: Vec<[u32; 2]>) -> Vec<[u32; 2]> {
    let first = (0..ring.len()).min_by_key(|at| [ring[*at][1], ring[*at][0]]).unwrap_or(0);
    ring.rotate_left(first);
    ring
}

/// Corners of a ring that are farther than the tolerance from the line without them.
fn simplify(ring: &[[u32; 2]], tolerance: f64) -> Vec<[u32; 2]> {
    let distance =
        |a: [u32; 2], b: [u32; 2]| (f64::from(a[0]) - f64::from(b[0])).hypot(f64::from(a[1]) - f64::from(b[1]));
    let farthest = |from: usize| {
        (0..ring.len()).max_by(|a, b| distance(ring[from], ring[*a]).total_cmp(&distance(ring[from], ring[*b])))
    };
    let Some(half) = farthest(0).filter(|half| *half > 0) else { return ring.to_vec() };
    let mut kept = vec![false; ring.len() + 1];
    (kept[0], kept[half]) = (true, true);
    let corner = |at: usize| ring[at % ring.len()];
    let mut todo = vec![[0, half], [half, ring.len()]];
    while let Some([first, last]) = todo.pop() {
        let (a, b) = (corner(first), corner(last));
        let length = distance(a, b);
        let from_line = |at: usize| {
            let [ax, ay, bx, by, x, y] = [a[0], a[1], b[0], b[1], corner(at)[0], corner(at)[1]].map(f64::from);
            match length > 0.0 {
                true => ((bx - ax) * (ay - y) - (ax - x) * (by - ay)).abs() / length,
                false => distance(a, corner(at)),
            }
        };
        let middle = (first + 1..last).map(|at| (at, from_line(at))).max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((at, far)) = middle
            && far > tolerance
        {
            kept[at] = true;
            todo.extend([[first, at], [at, last]]);
        }
    }
    (0..ring.len()).filter(|at| kept[*at]).map(|at| ring[at]).collect()
}
