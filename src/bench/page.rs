//! The page: the report as one HTML file, with plots, that needs nothing else.

use std::fmt;

use super::plot::{Line, Plot, escaped};
use super::report::{Figures, Report, Row};
use super::tables::is_number;

/// The report as an HTML page.
#[derive(Debug)]
pub struct Page<'a>(pub &'a Report);

const STYLE: &str = include_str!("page.css");

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let environment = &report.environment;
        writeln!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">"
        )?;
        writeln!(f, "<meta name=\"viewport\" content=\"width=device-width\">")?;
        writeln!(f, "<meta name=\"color-scheme\" content=\"light dark\">")?;
        writeln!(f, "<title>ballast bench</title>\n<style>\n{STYLE}</style>")?;
        writeln!(f, "<h1>ballast bench</h1>")?;
        writeln!(f, "<pre>{}</pre>", escaped(&environment.command_line))?;
        let facts = [
            ("ballast", environment.version.to_owned()),
            ("machine", environment.machine()),
            ("processors", environment.stalls.to_string()),
            ("database", environment.database()),
            (
                "disk",
                environment.disk().unwrap_or_else(|| "unknown".to_owned()),
            ),
            ("method", report.method()),
            ("ledgers", report.verdict().to_owned()),
        ];
        writeln!(f, "<dl>")?;
        for (name, fact) in facts {
            writeln!(f, "<dt>{name}<dd>{}", escaped(&fact))?;
        }
        writeln!(f, "</dl>")?;
        if !environment.optimized {
            writeln!(
                f,
                "<p class=\"warning\">This is a debug build; figures of it mean nothing.</p>"
            )?;
        }
        section(f, "Figures", FIGURES_NOTE, &report.table())?;
        section(f, "Ratios", RATIOS_NOTE, &report.ratio_table())?;
        section(f, "Parts", PARTS_NOTE, &report.part_table())?;
        let notes: Vec<String> = [report.drifts(), report.failures()]
            .into_iter()
            .flatten()
            .chain(report.notes.clone())
            .collect();
        if !notes.is_empty() {
            writeln!(f, "<h2>Notes</h2>\n<ul>")?;
            for note in notes {
                writeln!(f, "<li>{}", escaped(&note))?;
            }
            writeln!(f, "</ul>")?;
        }
        for (title, plots) in plots(report) {
            if !plots.is_empty() {
                writeln!(f, "<h2>{title}</h2>\n<div class=\"plots\">")?;
                for plot in plots {
                    writeln!(f, "{plot}")?;
                }
                writeln!(f, "</div>")?;
            }
        }
        Ok(())
    }
}

const FIGURES_NOTE: &str = "Medians of the rounds. Latencies in milliseconds; processor time in milliseconds, WAL and growth \
    of the database in bytes, each per answer.";
const RATIOS_NOTE: &str = "Of each round on its own: the median of the rounds, and their range.";
const PARTS_NOTE: &str = "Some of the requests on their own; latencies in milliseconds.";

/// A table with its heading, unless it has no rows.
fn section(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    note: &str,
    table: &[Vec<String>],
) -> fmt::Result {
    let Some((head, rows)) = table.split_first().filter(|(_, rows)| !rows.is_empty()) else {
        return Ok(());
    };
    writeln!(
        f,
        "<h2>{title}</h2>\n<p>{note}</p>\n<div class=\"wide\"><table>\n<tr>"
    )?;
    let class = |cell: &str| {
        if is_number(cell) {
            " class=\"number\""
        } else {
            ""
        }
    };
    let last = &rows[rows.len() - 1];
    for (cell, below) in head.iter().zip(last) {
        write!(f, "<th{}>{}", class(below), escaped(cell))?;
    }
    for row in rows {
        write!(f, "\n<tr>")?;
        for (cell, below) in row.iter().zip(last) {
            write!(f, "<td{}>{}", class(below), escaped(cell))?;
        }
    }
    writeln!(f, "\n</table></div>")
}

/// All plots, under their headings.
fn plots(report: &Report) -> Vec<(&'static str, Vec<Plot>)> {
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in &report.rows {
        let key = format!("{}, {}", row.scenario, row.pace);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    let mut scenarios: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in &report.rows {
        match scenarios
            .iter_mut()
            .find(|(other, _)| *other == row.scenario)
        {
            Some((_, rows)) => rows.push(row),
            None => scenarios.push((row.scenario.clone(), vec![row])),
        }
    }
    let time = groups
        .iter()
        .filter_map(|(title, rows)| over_time(title, rows));
    let latency = groups
        .iter()
        .filter_map(|(title, rows)| latency(title, rows));
    let concurrency = scenarios
        .iter()
        .filter_map(|(title, rows)| by_concurrency(title, rows));
    let size = groups
        .iter()
        .filter_map(|(title, rows)| by_size(title, rows));
    vec![
        ("Throughput against concurrency", concurrency.collect()),
        ("Throughput against size of the ledger", size.collect()),
        ("Throughput over time", time.collect()),
        ("Latency", latency.collect()),
    ]
}

/// What tells a row from the others of its plot.
fn name_of(row: &Row, rows: &[&Row], parts: &[fn(&Row) -> &str]) -> String {
    let telling = parts
        .iter()
        .filter(|part| rows.iter().any(|other| part(other) != part(row)));
    let words: Vec<&str> = telling.map(|part| part(row)).collect();
    match words.is_empty() {
        true => row.variant.clone(),
        false => words.join(", "),
    }
}

const VARIANT: fn(&Row) -> &str = |row| &row.variant;
const MODE: fn(&Row) -> &str = |row| &row.mode;
const TABLE: fn(&Row) -> &str = |row| &row.table;
const PACE: fn(&Row) -> &str = |row| &row.pace;

/// One line for each row: the mean of its rounds, second by second.
fn over_time(title: &str, rows: &[&Row]) -> Option<Plot> {
    let lines = rows.iter().map(|row| {
        let seconds = row
            .rounds
            .iter()
            .map(|round| round.per_second.len())
            .min()
            .unwrap_or(0);
        let mean = |second: usize| {
            let sum: u64 = row
                .rounds
                .iter()
                .map(|round| round.per_second[second])
                .sum();
            sum as f64 / row.rounds.len() as f64
        };
        Line {
            name: name_of(row, rows, &[VARIANT, MODE, TABLE]),
            points: (0..seconds)
                .map(|second| (second as f64 + 1.0, mean(second)))
                .collect(),
        }
    });
    Some(Plot {
        title: title.to_owned(),
        x_label: "time in the round [s]".to_owned(),
        y_label: "operations per second [1/s]".to_owned(),
        x_marks: Vec::new(),
        y_is_log: false,
        lines: drawn(lines)?,
    })
}

/// One line for each row: the latency at each percentile, the median of the rounds.
fn latency(title: &str, rows: &[&Row]) -> Option<Plot> {
    // Each nine takes as much room as the one before.
    let at = |quantile: f64| -(1.0 - quantile).log10();
    let lines = rows.iter().map(|row| {
        let curve = row
            .rounds
            .first()
            .map_or(&[][..], |round| &round.latency_curve_us);
        let micros = |round: &Figures, index: usize| {
            round
                .latency_curve_us
                .get(index)
                .map_or(f64::NAN, |(_, us)| *us as f64)
        };
        let points = curve
            .iter()
            .enumerate()
            .filter_map(|(index, (quantile, _))| {
                let spread = row.spread(|round| micros(round, index))?;
                Some((at(*quantile), spread.median / 1000.0))
            });
        Line {
            name: name_of(row, rows, &[VARIANT, MODE, TABLE]),
            points: points.collect(),
        }
    });
    let marks = [
        (0.0, "0"),
        (0.5, "50"),
        (0.9, "90"),
        (0.99, "99"),
        (0.999, "99.9"),
        (0.9999, "99.99"),
        (0.99999, "99.999"),
    ];
    Some(Plot {
        title: title.to_owned(),
        x_label: "percentile [%]".to_owned(),
        y_label: "latency [ms]".to_owned(),
        x_marks: marks
            .map(|(quantile, text)| (at(quantile), text.to_owned()))
            .to_vec(),
        y_is_log: true,
        lines: drawn(lines)?,
    })
}

fn by_concurrency(title: &str, rows: &[&Row]) -> Option<Plot> {
    let at = |count: usize| (count as f64).log2();
    let mut counts: Vec<usize> = rows.iter().filter_map(|row| row.concurrency).collect();
    counts.sort_unstable();
    counts.dedup();
    if counts.len() < 2 {
        return None;
    }
    let lines = lines_by(rows, &[VARIANT, MODE, TABLE], |row| row.concurrency.map(at));
    Some(Plot {
        title: title.to_owned(),
        x_label: "operations in flight [1]".to_owned(),
        y_label: "operations per second [1/s]".to_owned(),
        x_marks: counts
            .into_iter()
            .map(|count| (at(count), count.to_string()))
            .collect(),
        y_is_log: false,
        lines: drawn(lines.into_iter())?,
    })
}

fn by_size(title: &str, rows: &[&Row]) -> Option<Plot> {
    let at = |row: &Row| (row.size.entry_count() as f64).log10();
    let mut marks: Vec<(f64, String)> = rows
        .iter()
        .map(|row| (at(row), row.table.clone()))
        .collect();
    marks.sort_by(|one, other| one.0.total_cmp(&other.0));
    marks.dedup();
    if marks.len() < 2 {
        return None;
    }
    let lines = lines_by(rows, &[VARIANT, MODE, PACE], |row| Some(at(row)));
    Some(Plot {
        title: title.to_owned(),
        x_label: "ledger at the start [accounts+operations], by its number of entries".to_owned(),
        y_label: "operations per second [1/s]".to_owned(),
        x_marks: marks,
        y_is_log: false,
        lines: drawn(lines.into_iter())?,
    })
}

/// A line for all rows that these parts do not tell apart.
fn lines_by(
    rows: &[&Row],
    parts: &[fn(&Row) -> &str],
    at: impl Fn(&Row) -> Option<f64>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let Some(x) = at(row) else { continue };
        let point = (x, row.median(|figures| figures.ok_per_second));
        let name = name_of(row, rows, parts);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name,
                points: vec![point],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    lines
}

/// The lines that have points, if there are any.
fn drawn(lines: impl Iterator<Item = Line>) -> Option<Vec<Line>> {
    let lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
    (!lines.is_empty()).then_some(lines)
}
