//! The progress bar.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr; none if that is no terminal.
pub(crate) fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
