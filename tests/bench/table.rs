//! The figures, one line each: ours, the least that could do the same, what git takes for it, and what is aimed at.

/// One figure.
#[derive(Debug, Clone)]
pub struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    floor: Option<f64>,
    git: Option<f64>,
    at_most: Option<f64>,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &'static str, ours: f64) -> Row {
        Row { what: what.into(), unit, ours, floor: None, git: None, at_most: None }
    }

    pub fn floor(self, floor: f64) -> Row {
        Row { floor: Some(floor), ..self }
    }

    pub fn git(self, git: f64) -> Row {
        Row { git: Some(git), ..self }
    }

    /// What is aimed at; missing it is said, and fails nothing.
    pub fn at_most(self, at_most: f64) -> Row {
        Row { at_most: Some(at_most), ..self }
    }

    fn cells(&self) -> [String; 8] {
        let ratio = |other: Option<f64>| {
            other.filter(|other| *other > 0.0).map_or(String::new(), |other| number(self.ours / other))
        };
        let cell = |value: Option<f64>| value.map_or(String::new(), number);
        let target = self.at_most.map_or(String::new(), |at_most| {
            format!("{} {}", number(at_most), if self.ours <= at_most { "met" } else { "MISSED" })
        });
        [
            self.what.clone(),
            self.unit.to_owned(),
            number(self.ours),
            cell(self.floor),
            ratio(self.floor),
            cell(self.git),
            ratio(self.git),
            target,
        ]
    }
}

const HEAD: [&str; 8] = ["what", "unit", "ours", "floor", "x", "git", "x", "at most"];

/// Prints all of them.
pub fn print(rows: &[Row]) {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |n: usize| lines.iter().map(|cells| cells[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    println!();
    for cells in &lines {
        let mut line = format!("{:<w$}", cells[0], w = widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        println!("{}", line.trim_end());
    }
    println!();
}

/// Three digits that count, and no more.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        n if n < 1.0 => format!("{value:.2}"),
        n if n < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
