//! When a remote is asked: at even intervals, or by the calendar.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;
use crate::model::Calendar;

/// How often a remote is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Interval {
    /// With so much time in between.
    Every(Span),
    /// At the moments of a calendar.
    Calendar(Calendar),
}

impl Interval {
    /// Returns the time in between; `None`: it goes by the calendar.
    pub fn every(&self) -> Option<Span> {
        match self {
            Interval::Every(span) => Some(*span),
            Interval::Calendar(_) => None,
        }
    }

    /// Returns the calendar, where it goes by one.
    pub fn calendar(&self) -> Option<&Calendar> {
        match self {
            Interval::Every(_) => None,
            Interval::Calendar(calendar) => Some(calendar),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Interval, D::Error> {
        let text = String::deserialize(d)?;
        if let Ok(span) = humantime::parse_duration(&text) {
            return Ok(Interval::Every(Span(span)));
        }
        let wrong =
            |e| format!("'{text}' is neither a duration such as \"60s\" nor a calendar expression: {e}");
        text.parse().map(Interval::Calendar).map_err(|e| serde::de::Error::custom(wrong(e)))
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Interval".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "a duration such as \"60s\", or a calendar expression in systemd's syntax such as \"hourly\" \
                            or \"Mon..Fri 08..18:00/15\""
        })
    }
}
