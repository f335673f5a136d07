//! A statement in the making, and where the engines' SQL is not the same.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde_json::json;

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Rows name their scope by a small number, which the table `scopes` gives.
    Sqlite,
    /// Rows hold tenant and fleet, by which policies protect them.
    Postgres,
}

impl Dialect {
    /// Put before a column, it keeps it from being taken for the way to find rows.
    pub fn apart(self) -> &'static str {
        match self {
            Self::Sqlite => "+",
            Self::Postgres => "",
        }
    }

    /// The table that has the tenants and fleets of the rows of `table`.
    pub fn scopes(self, table: &str) -> &str {
        match self {
            Self::Sqlite => "s",
            Self::Postgres => table,
        }
    }

    /// The number of the scope of the rows of `table`.
    pub fn scope(self, table: &str) -> String {
        match self {
            Self::Sqlite => format!("{table}.scope"),
            Self::Postgres => "0".to_owned(),
        }
    }

    /// Joins, and where the engine would ask, in this order.
    pub fn join(self) -> &'static str {
        match self {
            Self::Sqlite => "CROSS JOIN",
            Self::Postgres => "JOIN",
        }
    }
}

/// What is bound to a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Integer(i64),
    /// What we made: ids, names, JSON.
    Text(String),
    /// What users wrote: any characters at all.
    Written(String),
    /// The columns of a small table.
    Lists(Vec<List>),
}

/// A column of what is bound as a table.
#[derive(Clone, Debug, PartialEq)]
pub enum List {
    Integers(Vec<i64>),
    Texts(Vec<String>),
    Written(Vec<String>),
}

impl List {
    fn len(&self) -> usize {
        match self {
            Self::Integers(list) => list.len(),
            Self::Texts(list) | Self::Written(list) => list.len(),
        }
    }

    fn json(&self, at: usize) -> serde_json::Value {
        match self {
            Self::Integers(list) => json!(list[at]),
            Self::Texts(list) | Self::Written(list) => json!(list[at]),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Integer(value) => ToSqlOutput::from(*value),
            Self::Text(text) | Self::Written(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Lists(lists) => ToSqlOutput::from(json_of(lists)),
        })
    }
}

/// The lines of a table as a JSON array; of one column the values themselves.
fn json_of(lists: &[List]) -> String {
    let line = |at: usize| match lists {
        [list] => list.json(at),
        _ => lists.iter().map(|list| list.json(at)).collect(),
    };
    (0..lists.first().map_or(0, List::len)).map(line).collect::<serde_json::Value>().to_string()
}

/// A statement with what is bound to it.
#[derive(Debug)]
pub struct Sql {
    pub dialect: Dialect,
    pub text: String,
    pub values: Vec<Value>,
    bound: usize,
}

impl Sql {
    pub fn of(dialect: Dialect) -> Self {
        Self { dialect, text: String::new(), values: Vec::new(), bound: 0 }
    }

    pub fn push(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.text.push_str(text.as_ref());
        self
    }

    fn push_mark(&mut self) -> &mut Self {
        self.bound += 1;
        match self.dialect {
            Dialect::Sqlite => self.push("?"),
            Dialect::Postgres => self.push(format!("${}", self.bound)),
        }
    }

    pub fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.push_mark()
    }

    /// Binds what users wrote.
    pub fn push_written(&mut self, text: &str) -> &mut Self {
        self.push_bind(Value::Written(text.to_owned()))
    }

    /// Whether a column holds a text.
    pub fn push_holds(&mut self, column: &str, text: Value) -> &mut Self {
        match self.dialect {
            Dialect::Sqlite => self.push(format!("instr({column}, ")).push_bind(text).push(") > 0"),
            Dialect::Postgres => self.push("position(").push_bind(text).push(format!(" IN {column}) > 0")),
        }
    }

    /// A table `name` of these columns, each line of them read by [`cell`](Self::cell).
    pub fn push_lists(&mut self, name: &str, lists: Vec<List>) -> &mut Self {
        match self.dialect {
            Dialect::Sqlite => self.push("json_each(").push_bind(Value::Lists(lists)).push(format!(") {name}")),
            Dialect::Postgres => {
                let columns: Vec<_> = (0..lists.len()).map(|at| format!("c{at}")).collect();
                for at in 0..lists.len() {
                    self.push(if at == 0 { "unnest(" } else { ", " }).push_mark();
                }
                self.values.push(Value::Lists(lists));
                self.push(format!(") {name} ({})", columns.join(", ")))
            }
        }
    }

    /// A column of a table of several.
    pub fn cell(&self, name: &str, at: usize) -> String {
        match self.dialect {
            Dialect::Sqlite => format!("{name}.value ->> {at}"),
            Dialect::Postgres => format!("{name}.c{at}"),
        }
    }

    /// The only column of a table.
    pub fn only_cell(&self, name: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => format!("{name}.value"),
            Dialect::Postgres => format!("{name}.c0"),
        }
    }
}
