//! Versions 0 and 1 of Git's protocol, for servers that do not know version 2 or do not hear that it is wanted. Such a
//! server begins by listing every ref it has; the list is read as it comes, and only what was asked for is kept. It knows
//! no transport.
//!
//! Sources: `gitprotocol-pack(5)`, `gitprotocol-capabilities(5)`, `gitprotocol-http(5)`.

use gix_transport::packetline::PacketLineRef;

use super::net::{Class, Failure};
use super::talk::{Lines, Request, Talk};
use super::words::{self, HEAD_LINES_MAX, Said, hex_digits, next, protocol, unexpected};
use crate::model::{Oid, OldProtocol};

/// The largest list of refs, in bytes. A line has some 60 to 120, so that this is for 100,000 refs and more.
pub(super) const LIST_BYTES_MAX: u64 = 16 << 20;
/// The most lines of a list. An annotated tag has two.
const LIST_LINES_MAX: u64 = 200_000;
/// Who we are, to the server's log.
const AGENT: &str = concat!("git/pullagent-", env!("CARGO_PKG_VERSION"));
/// What stands in place of a ref in the list of a repository that has none.
const NO_REFS: &str = "capabilities^{}";

/// What an old server can do, and how far we have come with it.
pub(super) struct Old {
    /// Words with a space between.
    capabilities: String,
    /// Whether its list of refs comes next.
    pub(super) list_follows: bool,
    /// Whether it lacks history itself. Known once its list is read.
    shallow: bool,
}

/// What is looked for in a list.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    /// Full names of refs.
    pub(super) names: &'a [&'a str],
    /// An object that a ref may point to.
    pub(super) oid: Option<&'a Oid>,
}

/// What was found in a list.
pub(super) struct Listed {
    /// Those of the refs that there are.
    pub(super) refs: Vec<(String, Oid)>,
    /// Whether any ref points to the object.
    pub(super) has_oid: bool,
    /// What the list cost.
    pub(super) cost: OldProtocol,
}

impl Old {
    /// Reads what the server can do, from its first line; the line itself stays to be read.
    pub(super) fn read(lines: &mut Lines) -> Result<Old, Failure> {
        let capabilities = match lines.peek_line() {
            // A server before all capabilities, with a repository that has no refs.
            None => String::new(),
            Some(line) => {
                let line = line.map_err(protocol)?.map_err(protocol)?;
                let line = words::text(line)?;
                line.split_once('\0').map(|(_, offered)| offered.to_owned()).unwrap_or_default()
            }
        };
        Ok(Old { capabilities, list_follows: true, shallow: false })
    }

    fn offers(&self, capability: &str) -> bool {
        self.capabilities.split(' ').any(|offered| offered == capability)
    }

    /// Returns the object format if the server says one that we know.
    pub(super) fn object_format(&self) -> Option<&str> {
        let format = self.capabilities.split(' ').find_map(|c| c.strip_prefix("object-format="));
        format.filter(|format| matches!(*format, "sha1" | "sha256"))
    }

    /// Reads the list of refs, which has to come next.
    pub(super) fn list(&mut self, lines: &mut Lines, sought: Sought<'_>) -> Result<Listed, Failure> {
        self.list_follows = false;
        let digits = hex_digits(self.object_format());
        let cost = OldProtocol { refs: 0, bytes: 4 };
        let mut listed = Listed { refs: Vec::new(), has_oid: false, cost };
        let mut count = 0;
        loop {
            let line = match next(lines)? {
                Said::Line(line) => line,
                Said::End(_) => return Ok(listed),
            };
            count += 1;
            if count > LIST_LINES_MAX {
                return Err(Failure::new(Class::Limit, format!("it lists more than {LIST_LINES_MAX} refs")));
            }
            // With its length in front and the newline behind.
            listed.cost.bytes += line.len() as u64 + 5;
            if line.starts_with("shallow ") {
                self.shallow = true;
            } else {
                listed.take(&line, digits, sought)?;
            }
        }
    }

    /// Asks for a pack with `wants` and all they need beyond `haves`, and reads up to where it begins.
    pub(super) fn pack<'t>(
        &self,
        talk: &'t mut dyn Talk,
        wants: &[Oid],
        haves: &[Oid],
    ) -> Result<&'t mut Lines, Failure> {
        if self.shallow {
            return Err(Failure::new(Class::Shallow, "it has no complete history"));
        }
        let (Some(first), features) = (wants.first(), self.features()?) else {
            return Err(Failure::new(Class::Local, "there is no object to ask for"));
        };
        let request = Request::default()
            .line(format_args!("want {first} {features}"))
            .lines(wants[1..].iter().map(|want| format!("want {want}")))
            .flush()
            .lines(haves.iter().map(|have| format!("have {have}")))
            .line("done");
        let answer = talk.ask(request.as_bytes(), false)?;
        skip_to_pack(answer)?;
        Ok(answer)
    }

    /// Returns what we use of what the server can do.
    fn features(&self) -> Result<String, Failure> {
        // Without bands a message of the server could not be told from the pack.
        let bands = ["side-band-64k", "side-band"].into_iter().find(|bands| self.offers(bands));
        let bands = bands.ok_or_else(|| {
            Failure::new(Class::Protocol, "the server can't send a pack in side bands, which is needed")
        })?;
        let mut features = vec![bands.to_owned()];
        // `no-progress` saves the server's chatter.
        let plain = ["thin-pack", "ofs-delta", "no-progress"].into_iter().filter(|c| self.offers(c));
        features.extend(plain.map(str::to_owned));
        features.extend(self.object_format().map(|format| format!("object-format={format}")));
        if self.capabilities.split(' ').any(|c| c.starts_with("agent=")) {
            features.push(format!("agent={AGENT}"));
        }
        Ok(features.join(" "))
    }
}

impl Listed {
    /// Takes in one line: `<id> <name>`, with the capabilities behind the first.
    fn take(&mut self, line: &str, digits: usize, sought: Sought<'_>) -> Result<(), Failure> {
        let line = line.split_once('\0').map_or(line, |(line, _)| line);
        let (id, name) = line.split_once(' ').ok_or_else(|| unexpected(line))?;
        let oid = words::id(id, digits).ok_or_else(|| unexpected(line))?;
        // What an annotated tag stands for has a line of its own, and is no ref.
        if name == NO_REFS || name.ends_with("^{}") {
            return Ok(());
        }
        self.cost.refs += 1;
        self.has_oid |= sought.oid == Some(&oid);
        if sought.names.contains(&name) && !self.refs.iter().any(|(known, _)| known == name) {
            self.refs.push((name.to_owned(), oid));
        }
        Ok(())
    }
}

/// Reads up to the first line of the pack, which stays to be read.
fn skip_to_pack(answer: &mut Lines) -> Result<(), Failure> {
    for _ in 0..HEAD_LINES_MAX {
        let line = match answer.peek_line() {
            Some(line) => line.map_err(protocol)?.map_err(protocol)?,
            None => return Err(Failure::new(Class::Protocol, "the server sends no pack")),
        };
        // A band's number is no letter.
        if let PacketLineRef::Data([1..=3, ..]) = line {
            return Ok(());
        }
        match words::text(line)? {
            // Whether it knows one of ours.
            line if line == "NAK" || line.starts_with("ACK ") => {}
            line if line.starts_with("shallow ") => {
                return Err(Failure::new(Class::Shallow, "it has no complete history"));
            }
            line => return Err(unexpected(&line)),
        }
        next(answer)?;
    }
    Err(Failure::new(Class::Limit, "too many lines before the pack"))
}
