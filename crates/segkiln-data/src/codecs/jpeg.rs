//! Whether a JPEG is all there. Decoders fill what is missing with gray or repetition, and say nothing.

use ::image::{DynamicImage, GenericImageView};

const SOS: u8 = 0xDA;
const EOI: u8 = 0xD9;

/// Where the end-of-image marker is to which the segments of a JPEG lead (ITU-T T.81, Annex B), if they do.
///
/// A search for the marker's bytes would find that of an embedded thumbnail.
pub(super) fn end_of_image(bytes: &[u8]) -> Option<usize> {
    let mut at = 2; // past SOI
    loop {
        match next_marker(bytes, &mut at)? {
            EOI => return Some(at - 2),
            // TEM and RSTn stand alone
            0x01 | 0xD0..=0xD7 => {}
            marker => {
                let length = bytes.get(at..at + 2)?;
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
                if marker == SOS {
                    skip_entropy_coded(bytes, &mut at);
                }
            }
        }
    }
}

/// The next byte after a run of 0xFF that is not a fill byte; decoders skip what lies before it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    *at += bytes.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
    *at += bytes.get(*at..)?.iter().position(|&byte| byte != 0xFF)?;
    *at += 1;
    Some(bytes[*at - 1])
}

/// Moves to the next marker that is neither a stuffed 0xFF nor a restart.
fn skip_entropy_coded(bytes: &[u8], at: &mut usize) {
    while *at + 1 < bytes.len() {
        if bytes[*at] == 0xFF && !matches!(bytes[*at + 1], 0x00 | 0xD0..=0xD7) {
            return;
        }
        *at += 1;
    }
    *at = bytes.len();
}

/// Whether the last row is the same every 16 pixels but for drift. So are flat borders, and so is what a decoder makes
/// of no data.
pub(super) fn ends_in_repetition(image: &DynamicImage) -> bool {
    let (width, y) = (image.width(), image.height() - 1);
    let same = |x: &u32| {
        let (a, b) = (image.get_pixel(*x, y).0, image.get_pixel(*x + 16, y).0);
        a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 2)
    };
    let pairs = width.saturating_sub(16);
    (0..pairs).filter(same).count() * 10 >= pairs as usize * 9
}

/// The file with more data before its end: a decoder that has all its pixels by then does not look at them.
pub(super) fn with_more_data(bytes: &[u8], end: usize) -> Vec<u8> {
    [&bytes[..end], &[0xB5; 256], &bytes[end..]].concat()
}
