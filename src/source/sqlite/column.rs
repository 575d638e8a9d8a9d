//! Columns whatever they hold: SQLite keeps a BLOB in a TEXT column too, or bytes that are no UTF-8, and one such row
//! must not hide all others.

use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, RowIndex};

use crate::sample::Moment;

/// Its text; `None` if it is NULL, or no text.
pub fn text(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<Arc<str>>> {
    Ok(row.get_ref(column)?.as_str().ok().map(Arc::from))
}

/// Its number; `None` if it holds none.
pub fn number(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<f64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number as f64),
        ValueRef::Real(number) => Some(number).filter(|number| number.is_finite()),
        _ => None,
    })
}

/// Its moment; what is no text is as unreadable as a text that is no moment.
pub fn moment(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Moment> {
    Ok(row.get_ref(column)?.as_str_or_null().map_or(Moment::Unreadable, Moment::read))
}

/// Whether it sorts behind a text, in SQLite's order: texts by their bytes, then all BLOBs.
pub fn is_after(row: &Row<'_>, column: impl RowIndex, text: &str) -> bool {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes)) => bytes > text.as_bytes(),
        Ok(ValueRef::Blob(_)) => true,
        _ => false,
    }
}

/// A value as it stands in a column, to be given to the next query.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Raw {
    /// `None` if it is no text.
    pub fn as_str(&self) -> Option<&str> {
        self.value().as_str().ok()
    }

    fn value(&self) -> ValueRef<'_> {
        match self {
            Raw::Null => ValueRef::Null,
            Raw::Integer(number) => ValueRef::Integer(*number),
            Raw::Real(number) => ValueRef::Real(*number),
            Raw::Text(bytes) => ValueRef::Text(bytes),
            Raw::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

impl From<&str> for Raw {
    fn from(text: &str) -> Raw {
        Raw::Text(text.into())
    }
}

impl FromSql for Raw {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Raw> {
        Ok(match value {
            ValueRef::Null => Raw::Null,
            ValueRef::Integer(number) => Raw::Integer(number),
            ValueRef::Real(number) => Raw::Real(number),
            ValueRef::Text(bytes) => Raw::Text(bytes.into()),
            ValueRef::Blob(bytes) => Raw::Blob(bytes.into()),
        })
    }
}

impl ToSql for Raw {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.value()))
    }
}
