//! A line chart as an SVG document.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 52.0;
/// Told apart by people who see colours differently (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];
/// Ticks of a linear axis, about.
const TICKS: f64 = 6.0;

/// How a value becomes a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Values of zero and less are left out.
    Log,
}

/// One line of a chart.
pub struct Line {
    /// For the legend.
    pub name: String,
    /// x and y, in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// What is drawn.
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub x: Scale,
    pub y: Scale,
    /// Marks of the x axis; empty: round numbers.
    pub x_ticks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
}

/// The part of an axis that is shown.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    /// None if no value can be shown.
    fn of(scale: Scale, values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Option<Axis> {
        let shown = values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        if low > high {
            return None;
        }
        let (low, high) = match scale {
            Scale::Linear => (low.min(0.0), if high > 0.0 { high * 1.05 } else { 1.0 }),
            Scale::Log if high / low < 1.1 => (low / 2.0, high * 2.0),
            Scale::Log => (low / 1.15, high * 1.15),
        };
        Some(Axis {
            scale,
            low,
            high,
            begin,
            end,
        })
    }

    fn place(&self, value: f64) -> Option<f64> {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        part.is_finite()
            .then_some(self.begin + part * (self.end - self.begin))
    }

    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        match self.scale {
            Scale::Linear => {
                let step = round_up((self.high - self.low) / TICKS);
                let mut tick = (self.low / step).ceil() * step;
                while tick <= self.high {
                    ticks.push(tick);
                    tick += step;
                }
            }
            Scale::Log => {
                let fine = (self.high / self.low).log10() < 3.0;
                let digits: &[f64] = if fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
                for decade in self.low.log10().floor() as i32..=self.high.log10().ceil() as i32 {
                    let all = digits.iter().map(|d| d * 10f64.powi(decade));
                    ticks.extend(all.filter(|t| (self.low..=self.high).contains(t)));
                }
            }
        }
        ticks
    }
}

/// 1, 2 or 5 times a power of ten, not under `value`.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let digit = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|d| d * decade >= value * 0.999);
    digit.unwrap_or(10.0) * decade
}

/// A number as short as it can be said.
pub fn short(value: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (value, unit) = units
        .into_iter()
        .find(|(size, _)| value.abs() >= *size)
        .map_or((value, ""), |(size, unit)| (value / size, unit));
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

impl Chart {
    /// The document; `None` if there is nothing to show.
    pub fn svg(&self) -> Option<String> {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::of(self.x, points().map(|p| p.0), LEFT, right)?;
        let y = Axis::of(self.y, points().map(|p| p.1), bottom, TOP)?;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        let mut text = |x: f64, y: f64, more: &str, words: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{}</text>",
                escaped(words)
            );
        };
        let middle = "text-anchor=\"middle\"";
        text(
            LEFT,
            20.0,
            "font-size=\"14\" font-weight=\"bold\"",
            &self.title,
        );
        text((LEFT + right) / 2.0, HEIGHT - 12.0, middle, &self.x_label);
        let turned = format!(
            "{middle} transform=\"rotate(-90 16 {:.1})\"",
            (TOP + bottom) / 2.0
        );
        text(16.0, (TOP + bottom) / 2.0, &turned, &self.y_label);
        let x_ticks = match self.x_ticks.as_slice() {
            [] => x.ticks().into_iter().map(|t| (t, short(t))).collect(),
            given => given.to_vec(),
        };
        let mut rules = String::new();
        for (tick, words) in x_ticks {
            if let Some(at) = x
                .place(tick)
                .filter(|at| (LEFT - 1.0..right + 1.0).contains(at))
            {
                text(at, bottom + 18.0, middle, &words);
                rules += &format!("M{at:.1} {TOP}V{bottom}");
            }
        }
        for tick in y.ticks() {
            if let Some(at) = y.place(tick) {
                text(LEFT - 6.0, at + 4.0, "text-anchor=\"end\"", &short(tick));
                rules += &format!("M{LEFT} {at:.1}H{right}");
            }
        }
        for (n, line) in self.lines.iter().enumerate() {
            let at = TOP + 14.0 + 20.0 * n as f64;
            text(right + 40.0, at + 4.0, "", &line.name);
        }
        let _ = writeln!(out, "<path d=\"{rules}\" stroke=\"#ddd\" fill=\"none\"/>");
        for (n, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let places: Vec<(f64, f64)> = line
                .points
                .iter()
                .filter_map(|p| Some((x.place(p.0)?, y.place(p.1)?)))
                .collect();
            let mut path = String::new();
            for (n, (px, py)) in places.iter().enumerate() {
                path += &format!("{}{px:.1} {py:.1}", if n == 0 { 'M' } else { 'L' });
            }
            let at = TOP + 14.0 + 20.0 * n as f64;
            let _ = writeln!(
                out,
                "<path d=\"{path}M{} {at}h24\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\" stroke-linejoin=\"round\"/>",
                right + 12.0
            );
            if places.len() <= MARKED_MAX {
                for (px, py) in places {
                    let _ = writeln!(
                        out,
                        "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>"
                    );
                }
            }
        }
        out += "</svg>\n";
        Some(out)
    }
}

/// A line of so few points shows each.
const MARKED_MAX: usize = 12;

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Scale, y: Scale, points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "a < b".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            x,
            y,
            x_ticks: Vec::new(),
            lines: vec![Line {
                name: "one & two".into(),
                points: points.to_vec(),
            }],
        }
    }

    #[test]
    fn every_point_is_inside_and_words_are_escaped() {
        let points = [(1.0, 5.0), (10.0, 0.5), (1000.0, 50_000.0)];
        for (x, y) in [
            (Scale::Linear, Scale::Linear),
            (Scale::Log, Scale::Log),
            (Scale::Linear, Scale::Log),
        ] {
            let svg = chart(x, y, &points).svg().unwrap();
            assert!(svg.contains("a &lt; b") && svg.contains("one &amp; two"));
            let places: Vec<f64> = svg
                .split("<circle ")
                .skip(1)
                .flat_map(|c| c.split('"').skip(1).step_by(2).take(2))
                .map(|n| n.parse().unwrap())
                .collect();
            assert_eq!(places.len(), 6, "{svg}");
            for pair in places.chunks(2) {
                assert!((LEFT..=WIDTH - RIGHT).contains(&pair[0]), "{svg}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&pair[1]), "{svg}");
            }
        }
    }

    #[test]
    fn nothing_to_show_is_no_chart() {
        assert!(chart(Scale::Linear, Scale::Linear, &[]).svg().is_none());
        let zeros = [(0.0, 0.0), (1.0, 0.0)];
        assert!(chart(Scale::Linear, Scale::Log, &zeros).svg().is_none());
        assert!(chart(Scale::Linear, Scale::Linear, &zeros).svg().is_some());
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::of(Scale::Linear, [0.0, 97_000.0].into_iter(), 0.0, 1.0).unwrap();
        assert_eq!(
            axis.ticks(),
            [0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]
        );
        let axis = Axis::of(Scale::Log, [3.0, 300.0].into_iter(), 0.0, 1.0).unwrap();
        assert_eq!(axis.ticks(), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(
            ["1.5k", "2M", "0.25"],
            [short(1500.0), short(2e6), short(0.25)].map(|s| s)
        );
    }
}
