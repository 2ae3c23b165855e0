//! Pieces of packs and trees that git itself would not make.

/// A pack that claims `objects` objects and holds `entries`, with the right trailer.
pub fn pack(objects: u32, entries: &[u8]) -> Vec<u8> {
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend(objects.to_be_bytes());
    pack.extend(entries);
    pack.extend([0; 20]);
    super::git::with_trailer(pack)
}

/// The header of a pack's entry: three bits of type, and the unpacked size.
pub fn entry_header(kind: u8, size: u64) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | (size & 15) as u8];
    let mut rest = size >> 4;
    while rest > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes
}

/// A size in a delta.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The distance from an offset delta back to its base.
pub fn offset(distance: u32) -> Vec<u8> {
    let mut bytes = vec![(distance & 0x7f) as u8];
    let mut rest = distance >> 7;
    while rest > 0 {
        rest -= 1;
        bytes.insert(0, (rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes
}

/// The delta instruction "copy 65,536 bytes from offset 0".
pub const COPY_64K: [u8; 1] = [0x80];

/// A zlib stream of `bytes`, at most 65,535, not compressed.
pub fn stored(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap();
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let head = [&[0x78, 0x01, 0x01], &len.to_le_bytes()[..], &(!len).to_le_bytes()].concat();
    [&head, bytes, &(b << 16 | a).to_be_bytes()].concat()
}

/// A zlib stream of `count` zeros in fixed Huffman codes: one literal, then matches of up to 258 bytes in 13 bits.
pub fn zeros(count: u64) -> Vec<u8> {
    let mut bits = Bits { bytes: vec![0x78, 0x01], used: 8 };
    bits.push(0b011, 3); // the last block, fixed codes; numbers go low bit first, codes high bit first
    let literals = 1 + (count - 1) % 258;
    (0..literals).for_each(|_| bits.code(0x30, 8));
    for _ in 0..(count - literals) / 258 {
        bits.code(0b1100_0101, 8); // length 258
        bits.code(0, 5); // distance 1
    }
    bits.code(0, 7); // end of block
    let adler = (count % 65_521) << 16 | 1;
    [bits.bytes, (adler as u32).to_be_bytes().to_vec()].concat()
}

struct Bits {
    bytes: Vec<u8>,
    /// How many bits of the last byte are used.
    used: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for n in 0..count {
            if self.used == 8 {
                self.bytes.push(0);
                self.used = 0;
            }
            *self.bytes.last_mut().unwrap() |= ((value >> n & 1) as u8) << self.used;
            self.used += 1;
        }
    }

    fn code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }
}

/// One entry of a tree; `id` is hexadecimal.
pub fn tree_entry(mode: &str, name: &str, id: &str) -> Vec<u8> {
    let raw = (0..id.len()).step_by(2).map(|n| u8::from_str_radix(&id[n..n + 2], 16).unwrap());
    format!("{mode} {name}\0").into_bytes().into_iter().chain(raw).collect()
}
