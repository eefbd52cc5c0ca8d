//! One page with everything, which needs no other file and no network: it can be sent by mail and read on a telephone.

use std::{fmt::Write as _, io::Cursor};

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, RgbImage, imageops};

use crate::{ExplainError, Map, Result, picture::color_bar};

/// A page.
///
/// ```
/// use image::RgbImage;
/// use segkiln_explain::report::{Report, Section};
///
/// let mut report = Report::new("street.jpg", "Class 15 (person)");
/// report.push(Section::new("Image", "As the network was given it.").with_picture(&RgbImage::new(8, 8))?);
/// let page = report.html();
/// assert!(page.starts_with("<!doctype html>") && page.contains("data:image/png;base64,"));
/// # Ok::<(), segkiln_explain::ExplainError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Report {
    title: String,
    question: String,
    sections: Vec<Section>,
}

/// A picture with what it means.
#[derive(Debug, Clone)]
pub struct Section {
    title: String,
    text: String,
    pictures: Vec<String>,
    legend: Option<Legend>,
    colors: Vec<([u8; 3], String)>,
    figures: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
struct Legend {
    bar: String,
    ends: [String; 2],
    unit: String,
}

impl Section {
    /// A section with a heading and a paragraph.
    pub fn new(title: impl Into<String>, text: impl Into<String>) -> Self {
        let (title, text) = (title.into(), text.into());
        Self { title, text, pictures: Vec::new(), legend: None, colors: Vec::new(), figures: Vec::new() }
    }

    /// Adds a picture; several stand side by side where there is room.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if it cannot be encoded.
    pub fn with_picture(mut self, picture: &RgbImage) -> Result<Self> {
        self.pictures.push(data_uri(picture)?);
        Ok(self)
    }

    /// Adds the colors of a map's values. The strongest 1 % have one color, so that the ends say "at least".
    ///
    /// # Errors
    /// [`ExplainError::Option`] if it cannot be encoded.
    pub fn with_legend(mut self, map: &Map, unit: impl Into<String>) -> Result<Self> {
        let strongest = map.strongest();
        let [least, most] = map.range();
        let low = if map.is_signed() { -strongest } else { 0.0 };
        let end = |mark: &str, is_beyond: bool, value: f32| match is_beyond {
            true => format!("{mark} {}", number(value)),
            false => number(value),
        };
        let ends = [end("≤", least < low, low), end("≥", most > strongest, strongest)];
        self.legend = Some(Legend { bar: data_uri(&color_bar(map.is_signed()))?, ends, unit: unit.into() });
        Ok(self)
    }

    /// Adds a color of a class and its name.
    #[must_use]
    pub fn with_color(mut self, color: [u8; 3], name: impl Into<String>) -> Self {
        self.colors.push((color, name.into()));
        self
    }

    /// Adds a line of the table.
    #[must_use]
    pub fn with_figure(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.figures.push((name.into(), value.into()));
        self
    }
}

impl Report {
    /// A page without sections.
    pub fn new(title: impl Into<String>, question: impl Into<String>) -> Self {
        Self { title: title.into(), question: question.into(), sections: Vec::new() }
    }

    /// Adds a section at the end.
    pub fn push(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// The page.
    pub fn html(&self) -> String {
        let title = escaped(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n<p>{}</p>\n</header>\n<main>\n",
            escaped(&self.question)
        );
        for section in &self.sections {
            section.write(&mut page);
        }
        page += "</main>\n</body>\n</html>\n";
        page
    }
}

impl Section {
    fn write(&self, page: &mut String) {
        let title = escaped(&self.title);
        let mut line = |text: String| {
            page.push_str(&text);
            page.push('\n');
        };
        line(format!("<section>\n<h2>{title}</h2>\n<p>{}</p>", escaped(&self.text)));
        if !self.pictures.is_empty() {
            let pictures = self.pictures.iter().map(|picture| format!("<img src=\"{picture}\" alt=\"{title}\">"));
            line(format!("<div class=\"pictures\">{}</div>", pictures.collect::<String>()));
        }
        if let Some(Legend { bar, ends: [low, high], unit }) = &self.legend {
            let unit = escaped(unit);
            line(format!(
                "<div class=\"legend\"><span>{low}</span><img src=\"{bar}\" alt=\"colors from {low} to {high}\"><span>{high}</span></div>\
                 <p class=\"unit\">{unit}</p>"
            ));
        }
        if !self.colors.is_empty() {
            let mut list = String::new();
            for ([r, g, b], name) in &self.colors {
                let _ = write!(list, "<li><i style=\"background:rgb({r},{g},{b})\"></i>{}</li>", escaped(name));
            }
            line(format!("<ul class=\"colors\">{list}</ul>"));
        }
        if !self.figures.is_empty() {
            let mut rows = String::new();
            for (name, value) in &self.figures {
                let _ = write!(rows, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
            }
            line(format!("<table>{rows}</table>"));
        }
        line("</section>".into());
    }
}

/// Three significant digits.
pub(crate) fn number(value: f32) -> String {
    match value.abs() {
        0.0 => "0".into(),
        amount if !(0.001..10_000.0).contains(&amount) => format!("{value:.2e}"),
        amount if amount < 1.0 => format!("{value:.4}"),
        amount if amount < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

fn data_uri(picture: &RgbImage) -> Result<String> {
    /// The longer side of a picture on the page, which is to stay small enough for a mail.
    const MOST: u32 = 640;
    let longer = picture.width().max(picture.height());
    let size = |side: u32| (u64::from(side) * u64::from(MOST) / u64::from(longer.max(1))).max(1) as u32;
    let smaller = (longer > MOST).then(|| imageops::thumbnail(picture, size(picture.width()), size(picture.height())));
    let picture = smaller.as_ref().unwrap_or(picture);
    let mut png = Cursor::new(Vec::new());
    let written = picture.write_to(&mut png, ImageFormat::Png);
    written.map_err(|error| ExplainError::Option { option: "picture", reason: error.to_string() })?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png.into_inner())))
}

/// Text that has no meaning in HTML, also within quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other => safe.push(other),
        }
    }
    safe
}

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1c1c1e;--soft:#5b5b60;--page:#f6f6f7;--card:#fff;--line:#dcdce0}\
@media(prefers-color-scheme:dark){:root{--text:#ececee;--soft:#a5a5ab;--page:#141416;--card:#1e1e21;--line:#38383d}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\
header,main{max-width:76rem;margin:0 auto;padding:1rem}\
h1{font-size:1.4rem;margin:.5rem 0 0}h2{font-size:1.1rem;margin:0 0 .4rem}header p,.unit{color:var(--soft);margin:.2rem 0}\
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem}\
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;min-width:0}\
section p{margin:.2rem 0 .7rem}\
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,12rem),1fr));gap:.5rem}\
.pictures img{width:100%;height:auto;display:block;border-radius:.3rem;image-rendering:auto}\
.legend{display:flex;align-items:center;gap:.5rem;margin-top:.6rem;font-size:.85rem;font-variant-numeric:tabular-nums}\
.legend img{flex:1;min-width:0;height:.8rem;border-radius:.2rem}.unit{font-size:.85rem}\
.colors{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1rem;padding:0;margin:.6rem 0 0;font-size:.9rem}\
.colors i{display:inline-block;width:.9em;height:.9em;border-radius:.2em;border:1px solid var(--line);margin-right:.4em;vertical-align:-.1em}\
table{border-collapse:collapse;width:100%;margin-top:.6rem;font-size:.9rem}\
th,td{text-align:left;padding:.25rem .4rem .25rem 0;border-top:1px solid var(--line);font-weight:400}\
td{text-align:right;font-variant-numeric:tabular-nums}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_page() {
        let mut report = Report::new("<script>alert(1)</script>.png", "a & b");
        report.push(Section::new("\"><b>", "x").with_color([1, 2, 3], "<i>").with_figure("'", "<td>"));
        let page = report.html();
        assert!(!page.contains("<script>") && !page.contains("\"><b>") && page.contains("a &amp; b"));
        for tag in ["section", "main", "table", "ul"] {
            assert_eq!(page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        // Nothing is loaded from anywhere.
        assert!(!page.contains("http") && !page.contains("src=\"/"));
    }

    #[test]
    fn legends_say_where_colors_end() {
        let ends = |values: Vec<f32>, is_signed: bool| {
            let map = Map::new([1, values.len()], values, is_signed).unwrap();
            Section::new("", "").with_legend(&map, "").unwrap().legend.unwrap().ends
        };
        let mut values = vec![0.5; 200];
        assert_eq!(ends(values.clone(), false), ["0", "0.5000"]);
        values[7] = 1.0;
        assert_eq!(ends(values.clone(), false), ["0", "≥ 0.5000"]);
        values[8] = -2.0;
        assert_eq!(ends(values, true), ["≤ -0.5000", "≥ 0.5000"]);
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 1.5e-7, 0.25, -3.75159, 123.4, 5.0e7].map(number);
        assert_eq!(numbers, ["0", "1.50e-7", "0.2500", "-3.75", "123", "5.00e7"]);
    }
}
