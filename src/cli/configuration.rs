//! `ballast configuration`: the page of the documentation that lists all options, as the command line knows them.
//! `docs/configuration.md` is its output, and `.ci/docs` checks that.

use std::fmt;
use std::io::{self, Write};

use clap::{Arg, Command};

pub(super) fn run(command: &Command) -> io::Result<()> {
    write!(io::stdout().lock(), "{}", Page(command))
}

const INTRODUCTION: &str = "\
# Configuration

Made from the command line by `ballast configuration`; `ballast COMMAND --help` says the same. An option that is given on the
command line wins over its environment variable. A variable turns a switch on with `true`, `yes`, `on` or `1`, and off with
`false`, `no`, `off` or `0`. An empty variable counts as absent, but an empty `BALLAST_DATABASE_URL` is an error, and so is an
unknown variable that begins with `BALLAST_`.
";

/// The whole page.
struct Page<'a>(&'a Command);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{INTRODUCTION}")?;
        let commands = self.0.get_subcommands().filter(|c| !c.is_hide_set());
        for command in commands {
            let about = command.get_about().map(ToString::to_string);
            writeln!(f, "## `ballast {}`\n", command.get_name())?;
            writeln!(f, "{}.\n", about.unwrap_or_default())?;
            for heading in headings(command) {
                if let Some(heading) = heading {
                    writeln!(f, "### {}: {heading}\n", command.get_name())?;
                }
                writeln!(f, "| option | environment | default | meaning |")?;
                writeln!(f, "|---|---|---|---|")?;
                for arg in options(command).filter(|arg| arg.get_help_heading() == heading) {
                    writeln!(f, "{}", Row(arg))?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "## Memory, disk and files\n")?;
        write!(f, "{MACHINE}")
    }
}

const MACHINE: &str = "\
The embedded PostgreSQL takes, as it needs them, up to a quarter of the memory (128 MB to 8 GB) for its buffers, and about a
tenth of what is free on the disk when it starts (1 to 8 GB) for its write-ahead log. Each connection is an open file: the
soft limit of open files is raised to the hard one (`ulimit -Hn`).
";

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let shown =
        |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    command.get_arguments().filter(shown)
}

/// The headings of the options, in their order; `None` for those that have none.
fn headings(command: &Command) -> Vec<Option<&str>> {
    let mut headings = Vec::new();
    for arg in options(command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    headings
}

/// The paragraphs of a help text; only those after the first end with a full stop.
fn in_one_line(help: &str) -> String {
    let paragraphs = help.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ").trim_end_matches('.').to_owned()
    });
    paragraphs.collect::<Vec<_>>().join(". ")
}

/// One option.
struct Row<'a>(&'a Arg);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arg = self.0;
        let value = arg.get_value_names().unwrap_or_default().join(" ");
        let takes_value = arg.get_action().takes_values();
        let name = match arg.get_long() {
            Some(long) if takes_value => format!("`--{long} {value}`"),
            Some(long) => format!("`--{long}`"),
            None => format!("`{value}`, after `--`"),
        };
        let environment = arg.get_env().map(|name| format!("`{}`", name.display()));
        let help = arg.get_long_help().or(arg.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        // An option without a value has its default in words at the end of the first paragraph.
        let (meaning, words) = match help.split_once(" [default: ") {
            Some((before, after)) => {
                let (default, rest) = after.split_once(']').unwrap_or((after, ""));
                (format!("{before}{rest}"), Some(default))
            }
            None => (help.clone(), None),
        };
        let values: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let default = match (values.is_empty(), words) {
            (false, _) => format!("`{}`", values.join(",")),
            (true, Some(words)) => words.to_owned(),
            (true, None) if takes_value => "none".to_owned(),
            (true, None) => "off".to_owned(),
        };
        let possible = arg.get_possible_values();
        let mut meaning = in_one_line(&meaning);
        if takes_value && !possible.is_empty() {
            let possible = possible.iter().map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({help})", value.get_name()),
                None => format!("`{}`", value.get_name()),
            });
            meaning = format!("{meaning}: {}", possible.collect::<Vec<_>>().join(", "));
        }
        let cells = [name, environment.unwrap_or_default(), default, meaning];
        write!(
            f,
            "| {} |",
            cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
        )
    }
}
