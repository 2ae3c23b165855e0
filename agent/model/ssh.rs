//! The address of an SSH remote, told from others and taken apart by Git's own rules. What could mean more than itself
//! to `ssh`, to a shell or to `git-upload-pack` is no address.

use std::fmt;
use std::str::FromStr;

/// What a port is when the address names none.
const PORT: u16 = 22;
/// The longest user and the longest host name, in bytes.
const NAME_BYTES_MAX: usize = 253;

/// A repository behind SSH: `ssh://user@host[:port]/path`, or `user@host:path` as `scp` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    user: String,
    host: String,
    port: u16,
    path: String,
}

/// What is wrong with an address. It is not repeated: somebody may have put a password into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SshAddressError {
    /// Neither of the two forms.
    #[error("it is neither ssh://user@host/path nor user@host:path")]
    Form,
    /// Without a user, `ssh` would take the name of whoever runs it.
    #[error("it names no user, such as 'git@'")]
    NoUser,
    /// Not a plain name; perhaps with a password behind it.
    #[error("its user is not a plain name; a password has no place in it")]
    User,
    /// Neither a host name nor an address.
    #[error("its host is neither a plain name nor an address in brackets")]
    Host,
    /// No port. The form of `scp` has none.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// No path that can be asked for.
    #[error("its path is missing, starts with '-', or holds a space or a control character")]
    Path,
}

impl SshAddress {
    /// Returns whether Git would take `url` for the address of an SSH remote, a good one or not.
    pub fn is_meant_by(url: &str) -> bool {
        if let Some((scheme, _)) = url.split_once("://") {
            return scheme == "ssh";
        }
        let Some((before, after)) = url.split_once(':') else { return false };
        // A slash before the colon makes it a path, and `helper::address` is for the program `helper`.
        let helper = after.starts_with(':') && before.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        !before.contains('/') && !helper
    }

    /// Returns the name to log in with.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the host's name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what the server's shell is given to run, quoted exactly as Git quotes it: servers that give no shell
    /// take it apart by Git's rules.
    pub fn upload_pack(&self) -> String {
        let mut command = String::from("git-upload-pack '");
        for c in self.path.chars() {
            match c {
                // The exclamation mark means something to csh even within quotes.
                '\'' | '!' => command.extend(["'\\", c.encode_utf8(&mut [0; 4]), "'"]),
                c => command.push(c),
            }
        }
        command.push('\'');
        command
    }
}

/// The host, and the port where it is not the usual one.
impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (false, PORT) => f.write_str(&self.host),
            (true, PORT) => write!(f, "[{}]", self.host),
            (false, port) => write!(f, "{}:{port}", self.host),
            (true, port) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

impl FromStr for SshAddress {
    type Err = SshAddressError;

    fn from_str(url: &str) -> Result<SshAddress, SshAddressError> {
        if !SshAddress::is_meant_by(url) {
            return Err(SshAddressError::Form);
        }
        let (place, port, path) = match url.strip_prefix("ssh://") {
            Some(rest) => url_form(rest)?,
            None => scp_form(url)?,
        };
        let (user, host) = place.rsplit_once('@').ok_or(SshAddressError::NoUser)?;
        let user = Some(user).filter(|user| is_plain(user, "-_.+")).ok_or(SshAddressError::User)?;
        let host = plain_host(host).ok_or(SshAddressError::Host)?;
        // `/~alice/infra` is below alice's home, and only a shell would know that with the slash before it.
        let path = if path.starts_with("/~") { &path[1..] } else { &path };
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if path.is_empty() || path == "/" || path.starts_with('-') || path.contains(odd) {
            return Err(SshAddressError::Path);
        }
        Ok(SshAddress { user: user.to_owned(), host: host.to_owned(), port, path: path.to_owned() })
    }
}

/// Takes `user@host[:port]/path` apart.
fn url_form(rest: &str) -> Result<(&str, u16, String), SshAddressError> {
    let (authority, path) = rest.split_at(rest.find('/').ok_or(SshAddressError::Path)?);
    let path = decoded(path).ok_or(SshAddressError::Path)?;
    // What stands in brackets has colons of its own.
    let behind_brackets = authority.rfind(']').unwrap_or(0);
    let Some(colon) = authority[behind_brackets..].rfind(':').map(|n| behind_brackets + n) else {
        return Ok((authority, PORT, path));
    };
    let (place, port) = (&authority[..colon], &authority[colon + 1..]);
    if !place.contains('@') && port.contains('@') {
        return Err(SshAddressError::User);
    }
    // A sign is no digit, though the parser of numbers takes `+22`.
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port @ 1..) if digits => Ok((place, port, path)),
        _ => Err(SshAddressError::Port),
    }
}

/// Takes `user@host:path` apart; the host may stand in brackets.
fn scp_form(url: &str) -> Result<(&str, u16, String), SshAddressError> {
    let bracketed = url.starts_with('[') || url.contains("@[");
    let host_end = if bracketed { url.find(']').unwrap_or(0) } else { 0 };
    let colon = url[host_end..].find(':').ok_or(SshAddressError::Form)? + host_end;
    Ok((&url[..colon], PORT, url[colon + 1..].to_owned()))
}

/// Replaces `%20` and its like as Git does in a URL; `None` where no text comes of it.
fn decoded(path: &str) -> Option<String> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (mut bytes, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        let byte = escaped.and_then(|n| u8::try_from(n).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8(bytes).ok()
}

fn plain_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            let legal = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
            Some(address).filter(|a| a.contains(':') && a.len() <= NAME_BYTES_MAX && a.chars().all(legal))
        }
        None => Some(host).filter(|host| is_plain(host, "-_.")),
    }
}

/// Returns whether `name` is letters, digits and `others`, and cannot be taken for an option.
fn is_plain(name: &str, others: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('-') && name.chars().all(legal)
}

/// Returns whether `ssh` takes `file` as it stands when it is the value of an option: such values are split at spaces,
/// lose quotes, and have `~`, `%h` and `${NAME}` replaced.
pub fn is_plain_file(file: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\"'\\%$#".contains(c);
    file.starts_with('/') && !file.contains(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns user, host, port and the remote command.
    fn parts(url: &str) -> Result<(String, String, u16, String), SshAddressError> {
        let a: SshAddress = url.parse()?;
        Ok((a.user.clone(), a.host.clone(), a.port, a.upload_pack()))
    }

    #[test]
    fn addresses_mean_what_git_takes_them_for() {
        let table = [
            ("ssh://git@h.example.org/me/infra.git", "git", "h.example.org", 22, "'/me/infra.git'"),
            ("ssh://git@h:2222/x", "git", "h", 2222, "'/x'"),
            ("ssh://git@[::1]:2222/x", "git", "::1", 2222, "'/x'"),
            ("ssh://git@[::1]/x", "git", "::1", 22, "'/x'"),
            ("ssh://git@h/~alice/x", "git", "h", 22, "'~alice/x'"),
            ("ssh://git@h/a%2Bb%zz%", "git", "h", 22, "'/a+b%zz%'"),
            ("git@h:me/infra.git", "git", "h", 22, "'me/infra.git'"),
            ("git@h:/srv/infra.git", "git", "h", 22, "'/srv/infra.git'"),
            ("git@h:/~alice/x", "git", "h", 22, "'~alice/x'"),
            ("git@h:~/x", "git", "h", 22, "'~/x'"),
            ("git@h:22/x", "git", "h", 22, "'22/x'"),
            ("git@h:v3/a%20b", "git", "h", 22, "'v3/a%20b'"),
            ("git@[::1]:x", "git", "::1", 22, "'x'"),
            ("a.b-c_d+e@10.0.0.1:x", "a.b-c_d+e", "10.0.0.1", 22, "'x'"),
            ("git@h:it's!$(id)`id`\\;x", "git", "h", 22, "'it'\\''s'\\!'$(id)`id`\\;x'"),
        ];
        for (url, user, host, port, path) in table {
            let expected = (user.to_owned(), host.to_owned(), port, format!("git-upload-pack {path}"));
            assert_eq!(parts(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn hostile_addresses_are_refused() {
        use SshAddressError::{Form, Host, NoUser, Path, Port, User};
        let long = format!("git@{}:x", "h".repeat(254));
        let table = [
            ("https://git@h/x", Form),
            ("git+ssh://git@h/x", Form),
            ("/srv/a:b", Form),
            ("./a@h:b", Form),
            ("ext::sh -c id", Form),
            ("infra", Form),
            ("", Form),
            ("h:x", NoUser),
            ("ssh://h/x", NoUser),
            ("ssh://-oProxyCommand=id/x", NoUser),
            ("-oProxyCommand=id:x", NoUser),
            ("-oProxyCommand=id@h:x", User),
            ("ssh://-oProxyCommand=id@h/x", User),
            ("ssh://me:s3cret@h/x", User),
            ("ssh://me:s3cret@h:22/x", User),
            ("ssh://a@b@h/x", User),
            ("@h:x", User),
            ("git%20@h:x", User),
            ("ssh://git@-oProxyCommand=id/x", Host),
            ("git@-oProxyCommand=id:x", Host),
            ("git@h h:x", Host),
            ("git@h\n:x", Host),
            ("git@h%41:x", Host),
            ("git@[h:22]:x", Host),
            ("git@[fe80::1%eth0]:x", Host),
            ("git@[22]:x", Host),
            ("git@:x", Host),
            ("ssh://git@/x", Host),
            (&long, Host),
            ("git@[::1:x", Host),
            ("ssh://git@h:/x", Port),
            ("ssh://git@h:0/x", Port),
            ("ssh://git@h:65536/x", Port),
            ("ssh://git@h:+22/x", Port),
            ("ssh://git@h:-22/x", Port),
            ("ssh://git@h", Path),
            ("ssh://git@h/", Path),
            ("git@h:", Path),
            ("git@h:/", Path),
            ("git@h:-x", Path),
            ("git@h:--upload-pack=id", Path),
            ("git@h:a b", Path),
            ("git@h:a\u{a0}b", Path),
            ("git@h:a\0b", Path),
            ("git@h:a\nb", Path),
            ("git@h:a\u{1b}[31m", Path),
            ("ssh://git@h/a%20b", Path),
            ("ssh://git@h/a%0ab", Path),
            ("ssh://git@h/a%00", Path),
            ("ssh://git@h/%ff", Path),
        ];
        for (url, error) in table {
            assert_eq!(parts(url), Err(error), "{url:?}");
        }
    }

    #[test]
    fn an_address_is_shown_without_user_and_path() {
        for (url, shown) in [
            ("git@h:x", "h"),
            ("ssh://git@h:22/x", "h"),
            ("ssh://git@h:23/x", "h:23"),
            ("git@[::1]:x", "[::1]"),
            ("ssh://git@[::1]:23/x", "[::1]:23"),
        ] {
            let address: SshAddress = url.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn files_that_ssh_would_read_differently_are_not_plain() {
        assert!(is_plain_file("/run/credentials/pullagent.service/origin.sshKeyFile"));
        for odd in ["", "none", "~/.ssh/id", "/a b", "/a\tb", "/%h", "/${HOME}", "/a\"b", "/a'b", "/a\\b"] {
            assert!(!is_plain_file(odd), "{odd}");
        }
    }
}
