//! Edges of polygons, found by the rows that they cross.

use std::ops::Range;

/// Edges of polygons, sorted by their upper ends: a tree over the list (an augmented interval tree) finds those that cross some rows
/// without a look at the others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edges {
    edges: Vec<Edge>,
    /// At the middle of each part of the list that is halved: the lowest end of the part's edges.
    ends: Vec<f64>,
}

/// A line between two points, `[x, y]` each.
#[derive(Debug, Clone, PartialEq)]
struct Edge {
    from: [f64; 2],
    to: [f64; 2],
    polygon: u32,
}

impl Edge {
    fn top(&self) -> f64 {
        self.from[1].min(self.to[1])
    }

    fn bottom(&self) -> f64 {
        self.from[1].max(self.to[1])
    }

    /// Whether it has points within a rectangle, `[left, top, right, bottom]` (Liang and Barsky, 1984).
    fn crosses(&self, rectangle: [f64; 4]) -> bool {
        let (mut enter, mut leave) = (0.0f64, 1.0f64);
        for axis in 0..2 {
            let ends = [self.from[axis], self.to[axis]];
            // Most are beside it, and no division says so.
            if ends[0].max(ends[1]) <= rectangle[axis] || ends[0].min(ends[1]) >= rectangle[axis + 2] {
                return false;
            }
            let (start, step) = (self.from[axis], self.to[axis] - self.from[axis]);
            let (low, high) = (rectangle[axis], rectangle[axis + 2]);
            if step == 0.0 {
                continue;
            }
            let [one, two] = [(low - start) / step, (high - start) / step];
            (enter, leave) = (enter.max(one.min(two)), leave.min(one.max(two)));
        }
        enter < leave
    }

    /// Whether a ray from a point to the right meets it.
    fn is_met_from(&self, [x, y]: [f64; 2]) -> bool {
        let ([ax, ay], [bx, by]) = (self.from, self.to);
        (ay > y) != (by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax)
    }
}

impl Edges {
    /// Edges of polygons of rings, the first of which is the outline and the others are holes; rings end where they begin, whether or
    /// not their last point is their first.
    pub fn of(polygons: impl IntoIterator<Item = Vec<Vec<[f64; 2]>>>) -> Self {
        let mut edges = Vec::new();
        for (polygon, rings) in (0..).zip(polygons) {
            for ring in rings {
                let ends = ring.iter().zip(ring.iter().cycle().skip(1));
                edges.extend(ends.map(|(from, to)| Edge { from: *from, to: *to, polygon }));
            }
        }
        edges.sort_by(|a, b| a.top().total_cmp(&b.top()));
        let mut ends = vec![0.0; edges.len()];
        fill_ends(&edges, &mut ends);
        Self { edges, ends }
    }

    /// Whether a rectangle, `[left, top, right, bottom]`, has points of a polygon within it.
    pub fn touch(&self, rectangle: [f64; 4]) -> bool {
        let [left, top, right, bottom] = rectangle;
        // Without an edge within it the rectangle is all inside a polygon or all outside, as its middle is.
        let middle = [f64::midpoint(left, right), f64::midpoint(top, bottom)];
        let mut met = Vec::new();
        let is_crossed = self.any_within(0..self.edges.len(), [top, bottom], &mut |edge| {
            if edge.is_met_from(middle) {
                met.push(edge.polygon);
            }
            edge.crosses(rectangle)
        });
        met.sort_unstable();
        is_crossed || met.chunk_by(|a, b| a == b).any(|edges| edges.len() % 2 == 1)
    }

    /// Calls `f` with edges of a part of the list that lie between two rows or cross one, until it returns true.
    fn any_within(&self, part: Range<usize>, rows: [f64; 2], f: &mut impl FnMut(&Edge) -> bool) -> bool {
        if part.is_empty() {
            return false;
        }
        let middle = usize::midpoint(part.start, part.end);
        if self.ends[middle] < rows[0] {
            return false;
        }
        let edge = &self.edges[middle];
        self.any_within(part.start..middle, rows, f)
            || (edge.top() <= rows[1]
                && (edge.bottom() >= rows[0] && f(edge) || self.any_within(middle + 1..part.end, rows, f)))
    }
}

/// Fills in the lowest ends of a list and of its halves, and returns that of the list.
fn fill_ends(edges: &[Edge], ends: &mut [f64]) -> f64 {
    let middle = edges.len() / 2;
    let Some(edge) = edges.get(middle) else { return f64::NEG_INFINITY };
    let (before, rest) = ends.split_at_mut(middle);
    let (own, after) = rest.split_at_mut(1);
    own[0] = edge.bottom().max(fill_ends(&edges[..middle], before)).max(fill_ends(&edges[middle + 1..], after));
    own[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stars of all sizes, some over others, some with a hole: what touches is what an exhaustive look says, and the tree looks at few.
    #[test]
    fn a_rectangle_meets_the_edges_of_its_rows_alone() {
        let star = |index: u32, radius: f64| -> Vec<[f64; 2]> {
            let center = [index * 7919 % 1000, index * 104_729 % 1000].map(f64::from);
            let corner = |corner: u32| {
                let radius = if corner.is_multiple_of(2) { radius } else { radius / 2.0 };
                let angle = f64::from(corner) * std::f64::consts::PI / 20.0;
                [center[0] + radius * angle.cos(), center[1] + radius * angle.sin()]
            };
            (0..40).map(corner).collect()
        };
        let radius = |index: u32| f64::from([4, 9, 30, 120][index as usize % 4]);
        let polygons: Vec<Vec<Vec<[f64; 2]>>> = (0..60)
            .map(|index| match index % 3 {
                0 => vec![star(index, radius(index)), star(index, radius(index) / 3.0)],
                _ => vec![star(index, radius(index))],
            })
            .collect();
        let edges = Edges::of(polygons.clone());
        assert_eq!(edges.edges.len(), 80 * 40);
        let (mut touching, mut looked_at) = (0, 0);
        for index in 0..900u32 {
            let [left, top] = [index % 30 * 34, index / 30 * 34].map(f64::from);
            let side = f64::from(1 + index % 33);
            let rectangle = [left, top, left + side, top + side];
            let middle = [left + side / 2.0, top + side / 2.0];
            let expected = polygons.iter().any(|polygon| {
                let own = Edges::of([polygon.clone()]).edges;
                own.iter().any(|edge| edge.crosses(rectangle))
                    || own.iter().filter(|edge| edge.is_met_from(middle)).count() % 2 == 1
            });
            assert_eq!(edges.touch(rectangle), expected, "{rectangle:?}");
            touching += u32::from(expected);
            edges.any_within(0..edges.edges.len(), [top, top + side], &mut |_| {
                looked_at += 1;
                false
            });
        }
        assert!((200..700).contains(&touching), "{touching} of 900 touch");
        let crossing: usize = (0..900u32)
            .map(|index| {
                let (top, side) = (f64::from(index / 30 * 34), f64::from(1 + index % 33));
                edges.edges.iter().filter(|edge| edge.bottom() >= top && edge.top() <= top + side).count()
            })
            .sum();
        assert_eq!(looked_at, crossing);
        assert!(!Edges::of([]).touch([0.0, 0.0, 1.0, 1.0]));
    }
}
