//! Statements with named parameters: `:operations.kind` in a statement stands for the column `kind` of the rows that are
//! called `operations`. PostgreSQL knows numbers only, and numbers that are counted by hand over several files go wrong as
//! soon as a column is added.

use tokio_postgres::types::ToSql;

/// Rows as one array per column, which `unnest` turns into rows again.
pub(super) trait Columns {
    /// What the rows are called in statements.
    const NAME: &'static str;

    /// The column of this name.
    fn column(&self, name: &str) -> Option<&(dyn ToSql + Sync)>;

    /// There are no rows.
    fn is_empty(&self) -> bool;
}

/// [`Columns`] of any kind.
pub(super) trait AnyColumns: Sync {
    fn find(&self, rows: &str, column: &str) -> Option<&(dyn ToSql + Sync)>;

    fn has_rows(&self) -> bool;
}

impl<T: Columns + Sync> AnyColumns for T {
    fn find(&self, rows: &str, column: &str) -> Option<&(dyn ToSql + Sync)> {
        (rows == T::NAME).then(|| self.column(column)).flatten()
    }

    fn has_rows(&self) -> bool {
        !self.is_empty()
    }
}

/// A statement, as PostgreSQL takes it, and what its parameters are.
#[derive(Debug)]
pub(super) struct Statement {
    text: String,
    /// The rows and the column of each parameter, in the order of their numbers.
    params: Vec<(&'static str, &'static str)>,
}

impl Statement {
    /// Numbers the parameters in the order in which they first appear.
    pub(super) fn new(named: &'static str) -> Self {
        let mut text = String::with_capacity(named.len());
        let mut params: Vec<(&str, &str)> = Vec::new();
        let mut rest = named;
        while let Some(colon) = rest.find(':') {
            let (before, after) = rest.split_at(colon);
            text.push_str(before);
            let name = &after[1..];
            // `::` is a cast.
            if let Some(cast) = name.strip_prefix(':') {
                text.push_str("::");
                rest = cast;
                continue;
            }
            let end = name
                .find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == '.'))
                .unwrap_or(name.len());
            let (name, after) = name.split_at(end);
            match name.split_once('.') {
                Some(param) => {
                    let known = params.iter().position(|known| *known == param);
                    let index = known.unwrap_or_else(|| {
                        params.push(param);
                        params.len() - 1
                    });
                    text.push_str(&format!("${}", index + 1));
                }
                None => {
                    text.push(':');
                    text.push_str(name);
                }
            }
            rest = after;
        }
        text.push_str(rest);
        Self { text, params }
    }

    /// As PostgreSQL takes it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The parameters, each from the rows that have it.
    ///
    /// # Panics
    ///
    /// If none of the rows has a parameter. A test binds every statement.
    pub(super) fn bind<'a>(&self, rows: &[&'a dyn AnyColumns]) -> Vec<&'a (dyn ToSql + Sync)> {
        let param = |(name, column): &(&str, &str)| {
            let found = rows.iter().find_map(|rows| rows.find(name, column));
            found.unwrap_or_else(|| panic!("no rows have the parameter {name}.{column}"))
        };
        self.params.iter().map(param).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rows(Vec<i64>, Vec<bool>);

    impl Columns for Rows {
        const NAME: &'static str = "rows";

        fn column(&self, name: &str) -> Option<&(dyn ToSql + Sync)> {
            match name {
                "a_b" => Some(&self.0),
                "c" => Some(&self.1),
                _ => None,
            }
        }

        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn names_become_numbers_and_casts_stay() {
        let statement = Statement::new(
            "-- example: x\nSELECT unnest(:rows.c::bool[])::text, :rows.a_b, ':x', :rows.c",
        );
        let expected = "-- example: x\nSELECT unnest($1::bool[])::text, $2, ':x', $1";
        assert_eq!(statement.text(), expected);
        let rows = Rows(vec![1], vec![true, false]);
        let params = statement.bind(&[&rows]);
        assert_eq!(
            format!("{params:?}"),
            format!("{:?}", [&rows.1 as &dyn std::fmt::Debug, &rows.0])
        );
    }

    #[test]
    #[should_panic(expected = "no rows have the parameter rows.d")]
    fn a_parameter_that_no_rows_have_is_no_statement() {
        Statement::new("SELECT :rows.d").bind(&[&Rows(Vec::new(), Vec::new())]);
    }
}
