//! Line charts as SVG: logarithmic axes, no dependencies, legible on a light and on a dark page.

use std::fmt::Write;

/// A chart of one quantity over another, both above 0.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Stands above it.
    pub title: String,
    /// What runs from left to right.
    pub x_label: String,
    /// What runs from below upwards.
    pub y_label: String,
    /// What is drawn, in the order of the legend.
    pub lines: Vec<Line>,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    name: String,
    /// From left to right.
    points: Vec<(f64, f64)>,
    is_dashed: bool,
}

impl Line {
    /// What was measured: a line with a dot at each point.
    pub fn solid(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            points: points.into_iter().collect(),
            is_dashed: false,
        }
    }

    /// What it is compared with.
    pub fn dashed(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            is_dashed: true,
            ..Self::solid(name, points)
        }
    }
}

const WIDTH: f64 = 460.0;
/// Of the plot with its labels; the legend stands below.
const HEIGHT: f64 = 340.0;
/// Of a line of the legend.
const LEGEND_LINE: f64 = 18.0;
/// Around the plot, in the order of CSS: above, right, below, left.
const MARGINS: (f64, f64, f64, f64) = (44.0, 24.0, 52.0, 56.0);
/// Of lines, in turn; grey for what is compared with.
const COLOURS: [&str; 6] = ["#0a7ea4", "#c2571a", "#4d8b31", "#8a4fbf", "#c9a227", "#c0397a"];
const GREY: &str = "#8a8f98";

/// Draws `charts` side by side as an SVG document.
pub fn svg(charts: &[Chart]) -> String {
    let width = WIDTH * charts.len() as f64;
    let n_lines = charts.iter().map(|chart| chart.lines.len()).max().unwrap_or(0);
    let height = HEIGHT + LEGEND_LINE * (n_lines as f64 + 0.5);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{GREY}\">\n"
    );
    for (idx, chart) in charts.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({},0)\">", idx as f64 * WIDTH);
        draw(chart, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(chart: &Chart, out: &mut String) {
    let (top, right, bottom, left) = MARGINS;
    let x = Axis::over(chart, |point| point.0, left, WIDTH - right);
    let y = Axis::over(chart, |point| point.1, HEIGHT - bottom, top);
    // `write!` to a string cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"24\" font-size=\"15\" font-weight=\"600\">{}</text>",
        escape(&chart.title)
    );
    for tick in x.ticks() {
        let at = x.place(tick);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"{GREY}\" stroke-opacity=\".2\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            HEIGHT - bottom,
            HEIGHT - bottom + 18.0
        );
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(
            out,
            "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"{GREY}\" stroke-opacity=\".2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - right,
            left - 8.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(16,{:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (left + WIDTH - right) / 2.0,
        HEIGHT - 14.0,
        escape(&chart.x_label),
        (top + HEIGHT - bottom) / 2.0,
        escape(&chart.y_label)
    );
    for (idx, line) in chart.lines.iter().enumerate() {
        draw_line(line, idx, (&x, &y), out);
    }
}

/// A line, and its entry in the legend.
fn draw_line(line: &Line, idx: usize, (x, y): (&Axis, &Axis), out: &mut String) {
    let (_, _, _, left) = MARGINS;
    let (colour, dashes) = if line.is_dashed {
        (GREY, " stroke-dasharray=\"5 4\"")
    } else {
        (COLOURS[idx % COLOURS.len()], "")
    };
    let mut path = String::new();
    for (idx, point) in line.points.iter().enumerate() {
        let command = if idx == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", x.place(point.0), y.place(point.1));
    }
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>"
    );
    if !line.is_dashed {
        for point in &line.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x.place(point.0),
                y.place(point.1)
            );
        }
    }
    let (legend_x, legend_y) = (left, HEIGHT + LEGEND_LINE * (idx as f64 + 0.5));
    let _ = writeln!(
        out,
        "<path d=\"M{legend_x} {:.1}h22\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\
         <text x=\"{:.1}\" y=\"{legend_y:.1}\">{}</text>",
        legend_y - 4.0,
        legend_x + 30.0,
        escape(&line.name)
    );
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    /// Places of the two on the page.
    from: f64,
    to: f64,
}

impl Axis {
    /// Spans what the lines of `chart` have in one direction, out to the next power of two.
    fn over(chart: &Chart, coordinate: fn(&(f64, f64)) -> f64, from: f64, to: f64) -> Self {
        let values = || {
            let points = chart.lines.iter().flat_map(|line| &line.points);
            points.map(coordinate).filter(|value| *value > 0.0)
        };
        let (low, high) = (
            values().fold(f64::INFINITY, f64::min),
            values().fold(0.0, f64::max),
        );
        if low > high {
            return Self {
                low: 1.0,
                high: 2.0,
                from,
                to,
            };
        }
        // A measurement just below 1 does not move the whole axis.
        let low = (low * 1.1).log2().floor().exp2();
        Self {
            low,
            high: high.log2().ceil().exp2().max(low * 2.0),
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value / self.low).log2() / (self.high / self.low).log2();
        self.from + share * (self.to - self.from)
    }

    /// Powers of two.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let high = self.high * 1.01;
        std::iter::successors(Some(self.low), |tick| Some(tick * 2.0)).take_while(move |tick| *tick <= high)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_spans_powers_of_two() {
        let chart = Chart {
            title: "a < b".to_owned(),
            x_label: String::new(),
            y_label: String::new(),
            lines: vec![Line::solid("n", [(1.0, 0.95), (64.0, 9.0)])],
        };
        let axis = Axis::over(&chart, |point| point.1, 0.0, 100.0);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0, 16.0]);
        assert_eq!(
            (axis.place(1.0), axis.place(4.0), axis.place(16.0)),
            (0.0, 50.0, 100.0)
        );
        assert!(svg(&[chart]).contains("a &lt; b"));
    }

    #[test]
    fn nothing_to_draw_is_no_reason_to_fail() {
        let chart = Chart {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            lines: Vec::new(),
        };
        assert!(svg(&[chart]).ends_with("</svg>\n"));
    }
}
