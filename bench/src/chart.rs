//! The charts of README.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::results::Measurement;
use crate::rig::Subject;

const SIZE: (u32, u32) = (720, 400);
/// Of a palette that the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [(Subject, RGBColor); 5] = [
    (Subject::Forward, RGBColor(0, 0, 0)),
    (Subject::Bare, RGBColor(230, 159, 0)),
    (Subject::Dial, RGBColor(0, 114, 178)),
    (Subject::Fuse, RGBColor(0, 158, 115)),
    (Subject::NineP, RGBColor(213, 94, 0)),
];

/// Writes the charts for which there are figures.
pub(crate) fn all(measurements: &[Measurement], to: &Path) -> Result<()> {
    let named = |names: &[(&str, f64)]| {
        let find = |name: &str| measurements.iter().find(|m| m.name == name);
        names.iter().map(|(name, x)| Some((*x, find(name)?))).collect::<Option<Vec<_>>>()
    };
    let delays = [("down/chacha20", 0.0), ("down/rtt20", 20.0), ("down/rtt100", 100.0)];
    if let Some(points) = named(&delays) {
        let (title, x) = ("One stream down, chacha20-poly1305", "round trip added, ms");
        draw(&to.join("round-trip.svg"), title, x, &points)?;
    }
    let streams = [
        ("down/chacha20", 1.0),
        ("down-2/chacha20", 2.0),
        ("down-4/chacha20", 4.0),
        ("down-8/chacha20", 8.0),
    ];
    if let Some(points) = named(&streams) {
        let (title, x) = ("Streams down at once, chacha20-poly1305", "streams");
        draw(&to.join("streams.svg"), title, x, &points)?;
    }
    Ok(())
}

fn draw(path: &Path, title: &str, x: &str, points: &[(f64, &Measurement)]) -> Result<()> {
    // A subject that is not in all of the measurements has no line.
    let line = |subject: Subject| -> Option<Vec<(f64, f64)>> {
        points.iter().map(|(x, m)| Some((*x, m.of(subject)?.median))).collect()
    };
    let series = COLOURS.map(|(subject, colour)| (subject, colour, line(subject)));
    let figures = series.iter().filter_map(|(_, _, line)| line.as_ref()).flatten();
    let highest = figures.map(|(_, figure)| *figure).fold(0.0, f64::max);
    let last = points.iter().map(|p| p.0).fold(0.0, f64::max);
    let (first, ticks) = (points.first().map_or(0.0, |p| p.0), points.len());
    let failed = || format!("cannot draw {}", path.display());
    // There is room for the legend above the lines.
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).with_context(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(first..last, 0.0..highest * 1.35)
        .with_context(failed)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc(x)
        .y_desc("MB/s")
        .x_labels(ticks.max(6))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 13))
        .draw()
        .with_context(failed)?;
    for (subject, colour, line) in series {
        let Some(line) = line else { continue };
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line, style).point_size(3))
            .with_context(failed)?
            .label(subject.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()
        .with_context(failed)?;
    area.present().with_context(failed)
}
