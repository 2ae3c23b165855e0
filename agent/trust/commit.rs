//! One commit object: split into what was signed and the signature, and read. The split accepts exactly one way
//! of writing a signed commit, because git drops every `gpgsig…` header before it checks, wherever it stands:
//! each other way would be a second id for the same signed content. It knows no key.

use sha2::{Digest as _, Sha256};

use super::escape;
use super::refusal::{Code, Fault, Refusal};
use crate::model::Oid;

/// The largest commit that is looked at, in bytes. The largest of 146,253 real ones has 32 KiB.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// The most parents a new commit may have. Git's own history has one commit with 66, made on purpose.
pub const PARENTS_MAX: usize = 64;

/// The hash function of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectFormat {
    /// 40 hexadecimal digits.
    Sha1,
    /// 64 hexadecimal digits.
    Sha256,
}

impl ObjectFormat {
    /// Returns the format that `id` belongs to.
    pub fn of(id: &Oid) -> ObjectFormat {
        if id.as_str().len() == 40 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }

    /// Returns how many bytes a raw id has, as in tree objects.
    pub fn raw_len(self) -> usize {
        match self {
            ObjectFormat::Sha1 => 20,
            ObjectFormat::Sha256 => 32,
        }
    }

    /// The header that carries the signature, with the space that follows it.
    fn signature_header(self) -> &'static [u8] {
        match self {
            ObjectFormat::Sha1 => b"gpgsig ",
            ObjectFormat::Sha256 => b"gpgsig-sha256 ",
        }
    }

    /// Parses a hexadecimal id of this format.
    fn id(self, hex: &[u8]) -> Option<Oid> {
        let id: Oid = std::str::from_utf8(hex).ok()?.parse().ok()?;
        (ObjectFormat::of(&id) == self).then_some(id)
    }
}

/// A signed commit, taken apart. Nothing is proven yet but its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<'a> {
    /// The bytes that were signed: the object without its signature header.
    pub payload: Vec<u8>,
    /// The signature as `ssh-keygen -Y sign` wrote it, without the last line end.
    pub armor: Vec<u8>,
    /// The root tree.
    pub tree: Oid,
    /// The parents, in order.
    pub parents: Vec<Oid>,
    /// Name, address and time of the author, as written.
    pub author: &'a [u8],
    /// Name, address and time of the committer, as written.
    pub committer: &'a [u8],
    /// What follows the header.
    pub message: &'a [u8],
}

/// Takes a signed commit apart. Refused are: no signature, one that is not the last header, any further header
/// that begins with `gpgsig`, fixed headers out of order, NUL anywhere, CR in the header, and sizes past the limits.
pub fn split(raw: &[u8], format: ObjectFormat) -> Result<Split<'_>, Refusal> {
    split_raw(raw, format).map_err(Refusal::from)
}

pub(super) fn split_raw(raw: &[u8], format: ObjectFormat) -> Result<Split<'_>, Fault> {
    if raw.len() > COMMIT_BYTES_MAX {
        let says = format!("has {} bytes, more than {COMMIT_BYTES_MAX}", raw.len());
        return Err(Fault::new(Code::CommitTooLarge, says));
    }
    if raw.contains(&0) {
        return Err(Fault::new(Code::NulByte, "contains a NUL byte"));
    }
    let end = raw.windows(2).position(|w| w == b"\n\n");
    let end = end.ok_or_else(|| Fault::new(Code::BadHeader, "has no end of its header"))?;
    if raw[..end].contains(&b'\r') {
        return Err(Fault::new(Code::CrInHeader, "contains a carriage return in its header"));
    }
    let mut lines = Lines { header: &raw[..end], at: 0, format };
    let tree = lines.fixed(b"tree ")?;
    let tree = lines.id(tree)?;
    let parents = lines.parents()?;
    let author = lines.fixed(b"author ")?;
    let committer = lines.fixed(b"committer ")?;
    let signature_at = lines.others()?;
    let armor = lines.signature()?;
    let payload = [&raw[..signature_at], &raw[end + 1..]].concat();
    Ok(Split { payload, armor, tree, parents, author, committer, message: &raw[end + 2..] })
}

/// The header, read line by line.
struct Lines<'a> {
    header: &'a [u8],
    at: usize,
    format: ObjectFormat,
}

impl<'a> Lines<'a> {
    /// Returns the next line without its end, and stays before it.
    fn peek(&self) -> Option<&'a [u8]> {
        let rest = self.header.get(self.at..).filter(|r| !r.is_empty())?;
        rest.split(|b| *b == b'\n').next()
    }

    fn skip(&mut self, line: &[u8]) {
        self.at += line.len() + 1;
    }

    /// Returns the value of the next line if it is the header `name`.
    fn value(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        let line = self.peek()?;
        let value = line.strip_prefix(name)?;
        self.skip(line);
        Some(value)
    }

    fn fixed(&mut self, name: &'static [u8]) -> Result<&'a [u8], Fault> {
        self.value(name).ok_or_else(|| self.out_of_order())
    }

    fn parents(&mut self) -> Result<Vec<Oid>, Fault> {
        let mut parents = Vec::new();
        while let Some(hex) = self.value(b"parent ") {
            if parents.len() == PARENTS_MAX {
                let says = format!("has more than {PARENTS_MAX} parents");
                return Err(Fault::new(Code::TooManyParents, says));
            }
            parents.push(self.id(hex)?);
        }
        Ok(parents)
    }

    fn id(&self, hex: &[u8]) -> Result<Oid, Fault> {
        let says = || format!("names '{}', which is not an object id", escape::line(hex));
        self.format.id(hex).ok_or_else(|| Fault::new(Code::BadHeader, says()))
    }

    /// Passes the optional encoding and all headers unknown here, with their continuation lines; they are signed.
    /// Returns where the signature header begins.
    fn others(&mut self) -> Result<usize, Fault> {
        let first = self.at;
        while let Some(line) = self.peek() {
            if line.starts_with(self.format.signature_header()) {
                return Ok(self.at);
            }
            let name = line.split(|b| *b == b' ').next().unwrap_or_default();
            let fixed = [&b"tree"[..], b"parent", b"author", b"committer"].contains(&name);
            let late_encoding = name == b"encoding" && self.at != first;
            let continues_fixed = name.is_empty() && (self.at == first || self.after_encoding(first));
            if fixed || late_encoding || continues_fixed || line.starts_with(b"gpgsig") {
                return Err(self.out_of_order());
            }
            self.skip(line);
        }
        Err(Fault::new(Code::Unsigned, "is not signed"))
    }

    /// Tells whether the line before this one is the encoding header, which has no continuation.
    fn after_encoding(&self, first: usize) -> bool {
        let before = &self.header[first..self.at];
        before.starts_with(b"encoding ") && before.iter().filter(|b| **b == b'\n').count() == 1
    }

    /// Returns the value of the signature header, which must be all that is left.
    fn signature(&mut self) -> Result<Vec<u8>, Fault> {
        let mut armor = self.fixed(self.format.signature_header())?.to_vec();
        while let Some(more) = self.value(b" ") {
            armor.push(b'\n');
            armor.extend_from_slice(more);
        }
        match self.peek() {
            None => Ok(armor),
            Some(_) => Err(Fault::new(Code::GpgsigNotLast, "has headers after its signature")),
        }
    }

    /// Says what is wrong with the next line where another header should be.
    fn out_of_order(&self) -> Fault {
        let Some(line) = self.peek() else {
            return Fault::new(Code::HeaderOrder, "has a header that ends too early");
        };
        if line.starts_with(self.format.signature_header()) {
            return Fault::new(Code::GpgsigNotLast, "has headers after its signature");
        }
        let shown = escape::line(line);
        if line.starts_with(b"gpgsig") {
            return Fault::new(
                Code::ForeignGpgsigHeader,
                format!("has a foreign signature header '{shown}'"),
            );
        }
        Fault::new(Code::HeaderOrder, format!("has the header line '{shown}' out of order"))
    }
}

/// What the walk needs of a commit that may be older than every rule: read as git reads it, nothing more.
#[derive(Debug)]
pub(super) struct Link {
    pub tree: Oid,
    pub parents: Vec<Oid>,
    /// `None` if the committer line cannot be read.
    pub committer_time: Option<i64>,
}

/// Reads tree, parents and time of any commit. For a commit that [`split`] accepts it finds the same.
pub(super) fn link(raw: &[u8], format: ObjectFormat) -> Result<Link, Fault> {
    let end = raw.windows(2).position(|w| w == b"\n\n").unwrap_or(raw.len());
    let mut lines = Lines { header: &raw[..end], at: 0, format };
    let tree = lines.fixed(b"tree ")?;
    let tree = lines.id(tree)?;
    let mut parents = Vec::new();
    while let Some(hex) = lines.value(b"parent ") {
        parents.push(lines.id(hex)?);
    }
    let committer = raw[..end].split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b"committer "));
    Ok(Link { tree, parents, committer_time: committer.and_then(time) })
}

/// A commit, read for people and for the verdict. Its signature may or may not have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: Oid,
    /// Its root tree.
    pub tree: Oid,
    /// Its parents, in order.
    pub parents: Vec<Oid>,
    /// The committer's time, unix seconds, as the signer wrote it.
    pub committer_time: i64,
    /// Name and address of the author, escaped, at most 200 characters.
    pub author: String,
    /// Name and address of the committer, escaped, at most 200 characters.
    pub committer: String,
    /// The first line of the message, lossy UTF-8, escaped, at most 200 characters.
    pub subject: String,
    /// SHA-256 of the signed bytes: the same for every id under which they can be served.
    pub payload_sha256: String,
    /// The branches that its `Deploy-To:` lines name; `None` if it has no such line.
    pub deploy_to: Option<Vec<String>>,
}

impl Commit {
    /// Reads a signed commit in its one canonical form; its signature is not checked here.
    pub fn parse(id: &Oid, raw: &[u8]) -> Result<Commit, Refusal> {
        let split = split_raw(raw, ObjectFormat::of(id)).map_err(|f| f.at(id))?;
        Commit::from_split(id, split).map_err(|f| f.at(id))
    }

    pub(super) fn from_split(id: &Oid, split: Split<'_>) -> Result<Commit, Fault> {
        let unreadable = || Fault::new(Code::BadHeader, "has a committer line without a readable time");
        Ok(Commit {
            id: id.clone(),
            tree: split.tree,
            parents: split.parents,
            committer_time: time(split.committer).ok_or_else(unreadable)?,
            author: person(split.author),
            committer: person(split.committer),
            subject: subject(split.message),
            payload_sha256: sha256_hex(&split.payload),
            deploy_to: deploy_to(split.message),
        })
    }
}

/// Returns the hash that stays the same under every id of the same signed content. What has no canonical form
/// (unsigned, or older than the rules) stands for itself.
pub(super) fn payload_sha256(raw: &[u8], format: ObjectFormat) -> String {
    match split_raw(raw, format) {
        Ok(split) => sha256_hex(&split.payload),
        Err(_) => sha256_hex(raw),
    }
}

/// Returns the subject of any commit, also one that [`split`] refuses.
pub(super) fn subject_of(raw: &[u8]) -> String {
    let end = raw.windows(2).position(|w| w == b"\n\n").map_or(raw.len(), |p| p + 2);
    subject(&raw[end..])
}

fn subject(message: &[u8]) -> String {
    let first = message.split(|b| *b == b'\n').find(|l| !l.trim_ascii().is_empty());
    escape::line(first.unwrap_or_default().trim_ascii())
}

/// Reads every line `Deploy-To: <branch> …` of a message, wherever it stands: as a trailer of git, whose names know no
/// case and may have spaces behind them, at the beginning of its line. Several branches are separated by spaces or commas.
fn deploy_to(message: &[u8]) -> Option<Vec<String>> {
    const NAME: &[u8] = b"deploy-to";
    let value = |line: &'_ [u8]| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let value = value.trim_ascii_start().strip_prefix(b":")?;
        name.eq_ignore_ascii_case(NAME).then(|| String::from_utf8_lossy(value).into_owned())
    };
    let values: Vec<String> = message.split(|b| *b == b'\n').filter_map(value).collect();
    let separator = |c: char| c.is_whitespace() || c == ',';
    let names = values.iter().flat_map(|v| v.split(separator)).filter(|name| !name.is_empty());
    (!values.is_empty()).then(|| names.map(str::to_owned).collect())
}

fn person(line: &[u8]) -> String {
    let end = line.iter().rposition(|b| *b == b'>').map_or(line.len(), |p| p + 1);
    escape::line(&line[..end])
}

/// Reads the seconds from `Name <address> 1700000000 +0100`, where git looks for them: after the last `>`.
fn time(line: &[u8]) -> Option<i64> {
    let after = &line[line.iter().rposition(|b| *b == b'>')? + 1..];
    let (seconds, zone) = std::str::from_utf8(after.strip_prefix(b" ")?).ok()?.split_once(' ')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let zoned = zone.strip_prefix(['+', '-']).is_some_and(digits);
    seconds.parse().ok().filter(|_| zoned && digits(seconds))
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns `bytes` in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n";
    const PARENT: &str = "parent 0123456789abcdef0123456789abcdef01234567\n";
    const PEOPLE: &str = "author A U <a@x> 1700000000 +0100\ncommitter C O <c@x> 1700000001 -0230\n";
    const SIG: &str = "gpgsig -----BEGIN\n line\n -----END\n";

    fn code(raw: &str) -> Code {
        split(raw.as_bytes(), ObjectFormat::Sha1).unwrap_err().code
    }

    #[test]
    fn a_signed_commit_falls_into_payload_and_signature() {
        let rest = "encoding latin1\nmergetag object 1\n type commit\n \n gpgsig x\nchange-id abc\n";
        let raw = format!("{TREE}{PARENT}{PEOPLE}{rest}{SIG}\nSubject\n\ngpgsig in the message\n");
        let split = split(raw.as_bytes(), ObjectFormat::Sha1).unwrap();
        assert_eq!(split.armor, b"-----BEGIN\nline\n-----END");
        assert_eq!(split.payload, raw.replacen(SIG, "", 1).as_bytes());
        assert_eq!((split.parents.len(), split.message), (1, &b"Subject\n\ngpgsig in the message\n"[..]));
    }

    #[test]
    fn a_commit_is_read_for_people() {
        let id = "89abcdef0123456789abcdef0123456789abcdef".parse().unwrap();
        let raw = format!("{TREE}{PEOPLE}{SIG}\n\n  Fix \x1b[31mthe door \n\nbody\n");
        let commit = Commit::parse(&id, raw.as_bytes()).unwrap();
        assert_eq!(commit.subject, "Fix \\u{1b}[31mthe door");
        assert_eq!((commit.author.as_str(), commit.committer.as_str()), ("A U <a@x>", "C O <c@x>"));
        assert_eq!((commit.committer_time, commit.parents.len()), (1_700_000_001, 0));
        assert_eq!(commit.payload_sha256, sha256_hex(raw.replacen(SIG, "", 1).as_bytes()));
    }

    #[test]
    fn lines_that_bind_a_commit_to_branches_are_found_wherever_they_stand() {
        let check = |message: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
            assert_eq!(deploy_to(message.as_bytes()), expected, "{message}");
        };
        check("Subject\n\nBody\n", None);
        check("Subject\n\nDeploy-To: test-web1\n", Some(&["test-web1"]));
        check("Deploy-To: a\n\nbody\ndeploy-to:b,c  d\r\nSigned-off-by: x\n", Some(&["a", "b", "c", "d"]));
        check("Subject\n\nDeploy-To:\n", Some(&[]));
        check("Subject\n\nDeploy-To \t: a\n", Some(&["a"]));
        check(
            "Subject\n\n  Deploy-To: quoted\n> Deploy-To: quoted\nDeploy-To quoted\nDeploy-Tool: x\n",
            None,
        );
    }

    #[test]
    fn every_other_form_is_refused() {
        let check = |raw: String, expected: Code| assert_eq!(code(&raw), expected, "{raw}");
        check(format!("{TREE}{PEOPLE}\nm"), Code::Unsigned);
        check(format!("{TREE}{PEOPLE}\nm\n{SIG}"), Code::Unsigned);
        check(format!("{TREE}{PEOPLE}{SIG}{SIG}\nm"), Code::GpgsigNotLast);
        check(format!("{TREE}{PEOPLE}{SIG}change-id x\n\nm"), Code::GpgsigNotLast);
        check(format!("{TREE}{SIG}{PEOPLE}\nm"), Code::GpgsigNotLast);
        check(format!("{SIG}{TREE}{PEOPLE}\nm"), Code::GpgsigNotLast);
        check(format!("{TREE}{PEOPLE}{SIG}gpgsig-sha256 x\n\nm"), Code::GpgsigNotLast);
        check(format!("{TREE}{PEOPLE}gpgsig-sha256 x\n{SIG}\nm"), Code::ForeignGpgsigHeader);
        check(format!("{TREE}{PEOPLE}gpgsig\n{SIG}\nm"), Code::ForeignGpgsigHeader);
        check(format!("{TREE}gpgsigs x\n{PEOPLE}{SIG}\nm"), Code::ForeignGpgsigHeader);
        check(format!("{PEOPLE}{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{TREE}{PEOPLE}{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE}{PARENT}{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE} more\n{PEOPLE}{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE} more\n{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE}encoding x\n more\n{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE}a b\nencoding x\n{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE}a b\nauthor\n{SIG}\nm"), Code::HeaderOrder);
        check(format!("{TREE}{PEOPLE}{SIG}"), Code::BadHeader);
        check(format!("tree 0123\n{PEOPLE}{SIG}\nm"), Code::BadHeader);
        check(format!("{TREE}{PEOPLE}{}\nm", SIG.replace('\n', "\r\n")), Code::CrInHeader);
        check(format!("{TREE}{PEOPLE}{SIG}\nm\0"), Code::NulByte);
        check(format!("{TREE}{}{PEOPLE}{SIG}\nm", PARENT.repeat(65)), Code::TooManyParents);
        check(format!("{TREE}{PEOPLE}{SIG}\n{}", "m".repeat(COMMIT_BYTES_MAX)), Code::CommitTooLarge);
        check(String::new(), Code::BadHeader);
        let at_limit = format!("{TREE}{}{PEOPLE}{SIG}\nm", PARENT.repeat(64));
        assert!(split(at_limit.as_bytes(), ObjectFormat::Sha1).is_ok());
    }

    #[test]
    fn each_object_format_has_its_own_header_and_ids() {
        let wide = format!("tree {}\n{PEOPLE}gpgsig-sha256 s\n\nm", "ab".repeat(32));
        assert!(split(wide.as_bytes(), ObjectFormat::Sha256).is_ok());
        assert_eq!(code(&wide), Code::BadHeader);
        let foreign = wide.replace("gpgsig-sha256", "gpgsig");
        let refusal = split(foreign.as_bytes(), ObjectFormat::Sha256).unwrap_err();
        assert_eq!(refusal.code, Code::ForeignGpgsigHeader);
    }

    #[test]
    fn times_are_read_where_git_reads_them() {
        let check = |line: &str, expected: Option<i64>| assert_eq!(time(line.as_bytes()), expected, "{line}");
        check("A <a@x> 1700000000 +0000", Some(1_700_000_000));
        check("A > B <a> <b@x> 5 -0030", Some(5));
        check("A <a@x> -5 +0000", None);
        check("A <a@x> +5 +0000", None);
        check("A <a@x> 5", None);
        check("A <a@x>", None);
        check("A <a@x> 99999999999999999999 +0000", None);
        check("A <a@x>  5 +0000", None);
        check("5 +0000", None);
    }

    #[test]
    fn old_commits_are_read_as_git_reads_them() {
        let raw = format!("{TREE}{}{PEOPLE}\n", PARENT.repeat(70));
        let link = link(raw.as_bytes(), ObjectFormat::Sha1).unwrap();
        assert_eq!((link.parents.len(), link.committer_time), (70, Some(1_700_000_001)));
    }
}
