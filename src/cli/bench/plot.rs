//! One metric as a picture: a bar for each contestant's median, a dot for each round.

use std::io;

use plotters::prelude::*;

use super::report::Row;

const WIDTH: u32 = 760;
/// Of one bar with its gap.
const BAR: u32 = 34;
/// Axis and its labels.
const AXIS: u32 = 60;

const KERNEL: RGBColor = RGBColor(150, 150, 150);
const MARGAY: RGBColor = RGBColor(62, 110, 180);

/// An `<svg>` element.
pub(super) fn svg(rows: &[Row]) -> io::Result<String> {
    let mut text = String::new();
    draw(rows, &mut text).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(text)
}

fn draw(rows: &[Row], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let count = rows.len();
    // The axis needs room for two. They are counted from 0 to `top`.
    let top = count.max(2) - 1;
    // The first row on top; a plot counts from below.
    let place = |index: usize| top - index;
    let values = |row: &Row| {
        row.rounds.iter().filter_map(|round| Some(round.figure.as_ref()?.value)).collect::<Vec<_>>()
    };
    let longest = rows.iter().flat_map(values).fold(0.0, f64::max);
    // A plot must have some width, also of nothing.
    let width = if longest > 0.0 { longest * 1.05 } else { 1.0 };
    let area = SVGBackend::with_string(text, (WIDTH, AXIS + BAR * (top as u32 + 1))).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(5)
        .margin_right(20)
        .x_label_area_size(AXIS - 15)
        .y_label_area_size(110)
        .build_cartesian_2d(0.0..width, (0..top).into_segmented())?;
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) => {
            let row = top.checked_sub(*at).and_then(|index| rows.get(index));
            row.map_or("", |row| row.contestant.name()).to_owned()
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(rows.first().map_or("", |row| row.unit))
        .y_labels(top + 1)
        .y_label_formatter(&name)
        .label_style(("sans-serif", 17))
        .axis_desc_style(("sans-serif", 17))
        .draw()?;
    chart.draw_series(rows.iter().enumerate().filter_map(|(index, row)| {
        let at = place(index);
        let colour = if row.contestant.is_margay() { MARGAY } else { KERNEL };
        let corners = [(0.0, SegmentValue::Exact(at)), (row.median?, SegmentValue::Exact(at + 1))];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(6, 6, 0, 0);
        Some(bar)
    }))?;
    chart.draw_series(rows.iter().enumerate().flat_map(|(index, row)| {
        let dot = move |value| {
            Circle::new((value, SegmentValue::CenterOf(place(index))), 3, BLACK.mix(0.6).filled())
        };
        values(row).into_iter().map(dot)
    }))?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::contestant::{Contestant, entries};
    use super::super::metric::Test;
    use super::super::report::{rows, tests::outcome};
    use super::*;
    use crate::wire::Family;

    fn text_of(svg: &str) -> Vec<&str> {
        svg.lines().filter(|line| !line.starts_with('<') && !line.trim().is_empty()).collect()
    }

    #[test]
    fn a_bar_for_each_contestant_from_the_top_and_a_dot_for_each_round() {
        use Contestant::{KernelRoute, KernelVxlan};
        let outcomes =
            [outcome(1, KernelVxlan, 8.0), outcome(2, KernelVxlan, 6.0), outcome(1, KernelRoute, 9.0)];
        let svg = svg(&rows(&entries(Family::V4, &[], &[Test::Tcp1]), &outcomes)).unwrap();
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
        // From below, as the plot draws them.
        let text = text_of(&svg);
        let names: Vec<&&str> = text.iter().filter(|line| line.starts_with("kernel")).collect();
        assert_eq!(names, [&"kernel-route", &"kernel-vxlan"], "{svg}");
        assert_eq!(text[0], "Gbit/s");
    }

    #[test]
    fn one_contestant_and_one_who_did_not_get_anything_through() {
        for value in [5.0, 0.0] {
            let one = [(Contestant::KernelVxlan, vec![Test::Tcp1])];
            let svg = svg(&rows(&one, &[outcome(1, Contestant::KernelVxlan, value)])).unwrap();
            assert!(text_of(&svg).contains(&"kernel-vxlan"), "{svg}");
        }
        let nothing = rows(&[(Contestant::KernelVxlan, vec![Test::Tcp1])], &[]);
        assert!(text_of(&svg(&nothing).unwrap()).contains(&"kernel-vxlan"));
    }
}
