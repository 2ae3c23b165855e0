//! The wire encoding of SSH (RFC 4251 §5): bytes, 32-bit numbers and length-prefixed strings, read from the front.

/// What is left to read. Every read returns `None` if it would go past the end.
pub(super) struct Blob<'a>(&'a [u8]);

impl<'a> Blob<'a> {
    pub fn new(bytes: &'a [u8]) -> Blob<'a> {
        Blob(bytes)
    }

    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn string(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(usize::try_from(n).ok()?)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a length-prefixed string. Every string written here is far below 4 GiB: a field of a commit or a digest.
pub(super) fn put_string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(&(s.len() as u32).to_be_bytes());
    out.extend_from_slice(s);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_and_never_past_the_end() {
        let mut bytes = vec![7];
        put_string(&mut bytes, b"git");
        let mut blob = Blob::new(&bytes);
        assert_eq!((blob.byte(), blob.string(), blob.is_empty()), (Some(7), Some(&b"git"[..]), true));
        assert_eq!((blob.byte(), blob.u32(), blob.string()), (None, None, None));
        assert_eq!(Blob::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), None);
        assert_eq!(Blob::new(&[0, 0, 0, 2, 1]).string(), None);
    }
}
