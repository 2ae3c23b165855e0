//! Version 2 of Git's protocol: asking for refs by name, and for a pack by id. It knows no transport.

use gix_transport::packetline::PacketLineRef;

use super::net::{Class, Failure};
use super::talk::{ENDS_OF_V2, Lines, Request, Talk};
use super::words::{self, HEAD_LINES_MAX, Said, hex_digits, next, unexpected};
use crate::model::Oid;

/// What the server can do, as far as it matters to us.
pub(super) struct V2 {
    /// `None` means SHA-1.
    pub(super) object_format: Option<String>,
}

impl V2 {
    /// Reads the rest of a greeting whose first line said that this is version 2.
    pub(super) fn read(lines: &mut Lines) -> Result<V2, Failure> {
        let mut object_format = None;
        loop {
            match next(lines)? {
                Said::Line(line) => {
                    // Who says nothing means SHA-1, and so do we (gitprotocol-v2(5), "object-format").
                    if let Some(format @ "sha256") = line.strip_prefix("object-format=") {
                        object_format = Some(format.to_owned());
                    }
                }
                Said::End(_) => return Ok(V2 { object_format }),
            }
        }
    }

    fn command(&self, name: &str) -> Request {
        let format = self.object_format.iter().map(|format| format!("object-format={format}"));
        Request::default().line(format_args!("command={name}")).lines(format).delimiter()
    }

    /// Asks for the refs `names`, of at most `max` that come.
    pub(super) fn list(
        &self,
        talk: &mut dyn Talk,
        names: &[&str],
        max: usize,
    ) -> Result<Vec<(String, Oid)>, Failure> {
        let prefixes = names.iter().map(|name| format!("ref-prefix {name}"));
        let request = self.command("ls-refs").lines(prefixes).flush();
        let answer = talk.ask(request.as_bytes(), true)?;
        let mut found: Vec<(String, Oid)> = Vec::new();
        let mut count = 0;
        loop {
            let line = match next(answer)? {
                Said::Line(line) => line,
                Said::End(_) => return Ok(found),
            };
            count += 1;
            if count > max {
                return Err(Failure::new(Class::Limit, format!("it lists more than {max} refs")));
            }
            let digits = hex_digits(self.object_format.as_deref());
            let Some((name, oid)) = listed(&line, digits)? else { continue };
            // A prefix also matches longer names, such as `main2` for `main`.
            if names.contains(&name) && !found.iter().any(|(known, _)| known == name) {
                found.push((name.to_owned(), oid));
            }
        }
    }

    /// Asks for a pack with `want` and all it needs beyond `haves`, and reads up to where it begins.
    pub(super) fn pack<'t>(
        &self,
        talk: &'t mut dyn Talk,
        want: &Oid,
        haves: &[Oid],
    ) -> Result<&'t mut Lines, Failure> {
        let request = self
            .command("fetch")
            // `no-progress` saves the server's chatter; its keep-alives (every 5 s) and errors still come.
            .lines(["thin-pack", "ofs-delta", "no-progress"])
            .line(format_args!("want {want}"))
            .lines(haves.iter().map(|have| format!("have {have}")))
            .line("done")
            .flush();
        let answer = talk.ask(request.as_bytes(), true)?;
        skip_to_pack(answer)?;
        Ok(answer)
    }
}

/// Parses `<id> <name>[ <attribute>…]`, one line of the answer to `ls-refs`; `None` for a branch without a commit.
fn listed(line: &str, digits: usize) -> Result<Option<(&str, Oid)>, Failure> {
    let mut words = line.trim_end().split(' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(unexpected(line)) };
    if id == "unborn" {
        return Ok(None);
    }
    let oid = words::id(id, digits).ok_or_else(|| unexpected(line))?;
    Ok(Some((name, oid)))
}

/// Reads up to the line that announces the pack.
fn skip_to_pack(answer: &mut Lines) -> Result<(), Failure> {
    answer.reset_with(ENDS_OF_V2);
    for _ in 0..HEAD_LINES_MAX {
        let line = match next(answer)? {
            Said::Line(line) => line,
            Said::End(PacketLineRef::Delimiter) => {
                answer.reset();
                continue;
            }
            Said::End(_) => return Err(Failure::new(Class::Protocol, "the server sends no pack")),
        };
        match line.trim_end() {
            "packfile" => return Ok(()),
            "acknowledgments" | "ready" | "NAK" => {}
            common if common.starts_with("ACK ") => {}
            // Not asked for: only a server that lacks history itself says this.
            "shallow-info" => return Err(Failure::new(Class::Shallow, "it has no complete history")),
            _ => return Err(unexpected(&line)),
        }
    }
    Err(Failure::new(Class::Limit, "too many lines before the pack"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn lines_of_refs_parse_or_say_why_not() {
        let main = |line: &str| listed(line, 40).map(|found| found.map(|(name, _)| name.to_owned()));
        let named = Ok(Some("refs/heads/main".to_owned()));
        assert_eq!(main(&format!("{A} refs/heads/main")), named);
        assert_eq!(main(&format!("{A} refs/heads/main symref-target:refs/heads/x peeled:{A}")), named);
        assert_eq!(main("unborn HEAD symref-target:refs/heads/main"), Ok(None));
        for bad in ["", A, &format!("{} refs/heads/main", &A[1..]), &format!("{A}{A} x"), "\u{fffd} \u{fffd}"]
        {
            assert_eq!(main(bad).map_err(|e| e.class), Err(Class::Protocol), "{bad}");
        }
    }
}
