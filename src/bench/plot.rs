//! Plots: lines over axes, as SVG. Colours come from the style sheet of the page, so they follow light and dark.

use std::fmt::{self, Write};

/// A plot of some lines.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What the horizontal axis shows, with its unit.
    pub(super) x_label: String,
    /// What the vertical axis shows, with its unit.
    pub(super) y_label: String,
    /// Where the horizontal axis is marked, and with what; empty: at round numbers.
    pub(super) x_marks: Vec<(f64, String)>,
    /// The vertical axis is logarithmic; otherwise it begins with zero.
    pub(super) y_is_log: bool,
    pub(super) lines: Vec<Line>,
}

/// One line of a plot.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 48.0;
/// How many colours the style sheet has; then they begin again, dashed.
const COLOUR_COUNT: usize = 6;
/// Lines with fewer points have a dot for each.
const DOTTED_POINT_COUNT_MAX: usize = 30;

/// A range of values, and where they are on the paper.
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let scaled = |value: f64| match self.is_log {
            true => value.max(f64::MIN_POSITIVE).log10(),
            false => value,
        };
        let (low, high) = (scaled(self.low), scaled(self.high));
        let part = (scaled(value) - low) / (high - low).max(f64::MIN_POSITIVE);
        self.from + part * (self.to - self.from)
    }

    /// Round numbers along it.
    fn marks(&self) -> Vec<f64> {
        if self.is_log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let steps =
                decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
            return steps
                .filter(|mark| (self.low..=self.high).contains(mark))
                .collect();
        }
        let step = round_step((self.high - self.low) / 6.0);
        let (first, last) = (
            (self.low / step).ceil() as i64,
            (self.high / step).floor() as i64,
        );
        (first..=last).map(|index| step * index as f64).collect()
    }
}

/// The next 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let fits = factors.into_iter().find(|factor| factor * power >= step);
    fits.unwrap_or(10.0) * power
}

/// A number with as many digits as an axis needs.
fn short(value: f64) -> String {
    match value {
        1_000_000.0.. => format!("{}m", trimmed(value / 1e6)),
        10_000.0.. => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text as it may stand in HTML and SVG.
pub(super) fn escaped(text: &str) -> String {
    let escapes = [
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&quot;"),
    ];
    text.chars().fold(String::new(), |mut escaped, c| {
        match escapes.iter().find(|(plain, _)| *plain == c) {
            Some((_, escape)) => escaped.push_str(escape),
            None => escaped.push(c),
        }
        escaped
    })
}

impl Plot {
    fn axes(&self) -> (Axis, Axis) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let fold = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let (x_low, x_high) = fold(&mut points().map(|point| point.0));
        let (y_low, y_high) = fold(&mut points().map(|point| point.1));
        // One point alone is in the middle.
        let half = if x_high > x_low { 0.0 } else { 0.5 };
        let x = Axis {
            low: x_low - half,
            high: x_high + half,
            is_log: false,
            from: LEFT,
            to: WIDTH - RIGHT,
        };
        let y_high = if y_high > 0.0 { y_high } else { 1.0 };
        let y = Axis {
            low: if self.y_is_log {
                y_low.max(1e-3) / 1.2
            } else {
                0.0
            },
            high: if self.y_is_log {
                y_high.max(2e-3) * 1.2
            } else {
                y_high * 1.08
            },
            is_log: self.y_is_log,
            from: HEIGHT - BOTTOM,
            to: TOP,
        };
        (x, y)
    }

    fn write_frame(&self, f: &mut fmt::Formatter<'_>, x: &Axis, y: &Axis) -> fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for mark in y.marks() {
            let (at, text) = (y.at(mark), short(mark));
            write!(f, r#"<path class="grid" d="M{LEFT} {at:.1}H{right}"/>"#)?;
            let (text_x, text_y) = (LEFT - 8.0, at + 4.0);
            write!(
                f,
                r#"<text x="{text_x}" y="{text_y:.1}" text-anchor="end">{text}</text>"#
            )?;
        }
        let marks = match self.x_marks.is_empty() {
            true => x
                .marks()
                .into_iter()
                .map(|mark| (mark, short(mark)))
                .collect(),
            false => self.x_marks.clone(),
        };
        for (mark, text) in marks {
            // A mark may lie beyond what was measured.
            if mark < x.low || mark > x.high {
                continue;
            }
            let (at, text) = (x.at(mark), escaped(&text));
            write!(f, r#"<path class="grid" d="M{at:.1} {TOP}V{bottom}"/>"#)?;
            let text_y = bottom + 18.0;
            write!(
                f,
                r#"<text x="{at:.1}" y="{text_y}" text-anchor="middle">{text}</text>"#
            )?;
        }
        write!(
            f,
            r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>"#
        )?;
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        let (x_label, y_label) = (escaped(&self.x_label), escaped(&self.y_label));
        let text_y = HEIGHT - 8.0;
        write!(
            f,
            r#"<text class="label" x="{middle_x}" y="{text_y}" text-anchor="middle">{x_label}</text>"#
        )?;
        write!(
            f,
            r#"<text class="label" transform="translate(16 {middle_y}) rotate(-90)" text-anchor="middle">{y_label}</text>"#
        )
    }
}

impl fmt::Display for Plot {
    /// A figure with its title, the plot and a legend.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (x, y) = self.axes();
        let title = escaped(&self.title);
        write!(f, "<figure><figcaption>{title}</figcaption>")?;
        write!(
            f,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#
        )?;
        self.write_frame(f, &x, &y)?;
        for (index, line) in self.lines.iter().enumerate() {
            let class = class_of(index);
            let mut path = String::new();
            for (number, point) in line.points.iter().enumerate() {
                let command = if number == 0 { 'M' } else { 'L' };
                write!(path, "{command}{:.1} {:.1}", x.at(point.0), y.at(point.1))?;
            }
            write!(f, r#"<path class="line {class}" d="{path}"/>"#)?;
            if line.points.len() <= DOTTED_POINT_COUNT_MAX {
                for point in &line.points {
                    let (at_x, at_y) = (x.at(point.0), y.at(point.1));
                    let name = escaped(&line.name);
                    write!(
                        f,
                        r#"<circle class="{class}" cx="{at_x:.1}" cy="{at_y:.1}" r="3"><title>{name}: {}</title></circle>"#,
                        short(point.1)
                    )?;
                }
            }
        }
        f.write_str("</svg><ul class=\"legend\">")?;
        for (index, line) in self.lines.iter().enumerate() {
            let (class, name) = (class_of(index), escaped(&line.name));
            write!(
                f,
                r#"<li><svg viewBox="0 0 28 8" class="key"><path class="line {class}" d="M1 4H27"/></svg>{name}</li>"#
            )?;
        }
        f.write_str("</ul></figure>")
    }
}

fn class_of(index: usize) -> String {
    let dashed = if index >= COLOUR_COUNT { " dashed" } else { "" };
    format!("c{}{dashed}", index % COLOUR_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_marked_at_round_numbers() {
        let axis = |low, high, is_log| Axis {
            low,
            high,
            is_log,
            from: 0.0,
            to: 1.0,
        };
        assert_eq!(axis(0.0, 9_500.0, false).marks(), [0.0, 2e3, 4e3, 6e3, 8e3]);
        assert_eq!(axis(0.9, 25.0, true).marks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(["12k", "1.5m", "0.25"], [12e3, 1.5e6, 0.25].map(short));
    }

    #[test]
    fn a_plot_of_one_point_and_hostile_names_is_sound() {
        let plot = Plot {
            title: "<&\">".to_owned(),
            x_label: String::new(),
            y_label: String::new(),
            x_marks: Vec::new(),
            y_is_log: true,
            lines: vec![Line {
                name: "<b>".to_owned(),
                points: vec![(1.0, 0.0)],
            }],
        };
        let text = plot.to_string();
        assert!(
            !text.contains("NaN") && !text.contains("inf") && !text.contains("<b>"),
            "{text}"
        );
    }
}
