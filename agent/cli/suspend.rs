//! `pullagent suspend`: stop deploying, with a reason and an end if there is one.

use super::exit::{Exit, Fail};
use super::{Options, order};
use crate::control::protocol::Order;
use crate::host::clock;

/// For how long, and why.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how long, such as 2h or "1h 30m" [default: until resumed]
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until", value_parser = super::duration)]
    span: Option<std::time::Duration>,
    /// Until when, such as 18:00 or "2027-01-15 18:00", by the host's clock
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why; it is shown to everybody who asks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Gives the order.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let now = clock::unix_secs();
    let until = match (&args.span, &args.until) {
        (Some(span), _) => Some(now.saturating_add(span.as_secs())),
        (None, Some(text)) => {
            Some(moment(text, now, &jiff::tz::TimeZone::system()).ok_or_else(|| wrong(text))?)
        }
        (None, None) => None,
    };
    if until.is_some_and(|until| until <= now) {
        return Err(Fail::usage("the suspension would be over at once", "give a time that is still to come"));
    }
    order(options, &Order::Suspend { reason: args.reason.clone(), until })?;
    Ok(Exit::Ok)
}

/// Reads a time of day (the next one to come) or a date with a time, in the zone of the host.
fn moment(text: &str, now: u64, zone: &jiff::tz::TimeZone) -> Option<u64> {
    let today = jiff::Timestamp::from_second(i64::try_from(now).ok()?).ok()?.to_zoned(zone.clone());
    let civil = if let Ok(date_time) = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M", text) {
        date_time
    } else {
        let time = jiff::civil::Time::strptime("%H:%M", text).ok()?;
        let date = if time > today.time() { today.date() } else { today.date().tomorrow().ok()? };
        date.to_datetime(time)
    };
    u64::try_from(civil.to_zoned(zone.clone()).ok()?.timestamp().as_second()).ok()
}

fn wrong(text: &str) -> Fail {
    Fail::usage(format!("'{text}' is not a time"), "write it as 18:00 or as \"2027-01-15 18:00\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_the_next_ones_to_come() {
        let now = 1_800_000_000; // 2027-01-15 08:00 UTC
        let zone = jiff::tz::TimeZone::UTC;
        assert_eq!(moment("18:00", now, &zone), Some(now + 10 * 3600));
        assert_eq!(moment("07:00", now, &zone), Some(now + 23 * 3600));
        assert_eq!(moment("2027-01-16 08:00", now, &zone), Some(now + 24 * 3600));
        assert_eq!(moment("tomorrow", now, &zone), None);
    }
}
