//! Turns a file in UTF-8 or UTF-16, with or without a byte order mark, into UTF-8. Nothing is held but a buffer.

use std::io::{self, BufRead, BufReader, Read};

/// A byte that no UTF-8 has. It stands for what is no UTF-16, so that whoever reads the text refuses that line.
const INVALID: u8 = 0xff;

/// The bytes of a file as UTF-8, without a byte order mark.
///
/// A file without a mark is UTF-16 if one of its first two bytes is zero: its first character, of a header or of an
/// object, is ASCII.
pub(super) fn decode<'a>(mut bytes: impl BufRead + Send + 'a) -> io::Result<Box<dyn BufRead + Send + 'a>> {
    let (little, big): (Unit, Unit) = (u16::from_le_bytes, u16::from_be_bytes);
    let (mark, unit) = match bytes.fill_buf()? {
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        [0xff, 0xfe, ..] => (2, Some(little)),
        [0xfe, 0xff, ..] => (2, Some(big)),
        [0, other, ..] if *other != 0 => (0, Some(big)),
        [other, 0, ..] if *other != 0 => (0, Some(little)),
        _ => (0, None),
    };
    bytes.consume(mark);
    Ok(match unit {
        None => Box::new(bytes),
        Some(unit) => Box::new(BufReader::new(Utf16 { bytes, unit, rest: vec![], text: vec![], given: 0 })),
    })
}

/// Makes a code unit of two bytes.
type Unit = fn([u8; 2]) -> u16;

/// Reads UTF-16 as UTF-8.
struct Utf16<R> {
    bytes: R,
    unit: Unit,
    /// Read, but not decoded: half a code unit, or half of a pair.
    rest: Vec<u8>,
    /// Decoded. The first `given` bytes were handed out.
    text: Vec<u8>,
    given: usize,
}

impl<R: BufRead> Utf16<R> {
    /// Decodes more. Returns whether there was more.
    fn decode_more(&mut self) -> io::Result<bool> {
        let chunk = self.bytes.fill_buf()?;
        let (count, is_end) = (chunk.len(), chunk.is_empty());
        self.rest.extend_from_slice(chunk);
        self.bytes.consume(count);
        let mut units: Vec<u16> = self.rest.chunks_exact(2).map(|pair| (self.unit)([pair[0], pair[1]])).collect();
        if !is_end && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
        }
        self.rest.drain(..2 * units.len());
        for decoded in char::decode_utf16(units) {
            match decoded {
                Ok(c) => self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                Err(_) => self.text.push(INVALID),
            }
        }
        if is_end && !self.rest.is_empty() {
            self.rest.clear();
            self.text.push(INVALID);
        }
        Ok(!is_end)
    }
}

impl<R: BufRead> Read for Utf16<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() {
            self.text.clear();
            self.given = 0;
            if !self.decode_more()? && self.text.is_empty() {
                return Ok(0);
            }
        }
        let count = (&self.text[self.given..]).read(into)?;
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes bytes that come `at_once` at a time.
    fn decoded(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let mut text = vec![];
        decode(BufReader::with_capacity(at_once, bytes)).unwrap().read_to_end(&mut text).unwrap();
        text
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn every_encoding_gives_the_same_text_with_and_without_a_mark() {
        let text = "e-mail,é€😀\r\n";
        for at_once in [4, 5, 8192] {
            for start in ["", "\u{feff}"] {
                let marked = format!("{start}{text}");
                assert_eq!(decoded(marked.as_bytes(), at_once), text.as_bytes());
                assert_eq!(decoded(&utf16(&marked, u16::to_le_bytes), at_once), text.as_bytes(), "{at_once}");
                assert_eq!(decoded(&utf16(&marked, u16::to_be_bytes), at_once), text.as_bytes(), "{at_once}");
            }
        }
        assert_eq!(decoded(b"", 8), b"");
        assert_eq!(decoded(b"x", 8), b"x");
    }

    #[test]
    fn what_is_no_utf_16_becomes_what_is_no_utf_8() {
        let broken = [b"a\0".as_slice(), b"\x3d\xd8", b"b\0", b"\x00\xdc", b"c"].concat();
        for at_once in [2, 3, 8192] {
            assert_eq!(decoded(&broken, at_once), b"a\xffb\xff\xff");
        }
    }
}
