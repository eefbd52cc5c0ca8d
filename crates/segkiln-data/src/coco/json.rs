//! JSON read in place: what is asked for is parsed, the rest is passed over.
//!
//! serde_json would round the last bit of long numbers, and cannot say in which field of which entry it met something
//! else than it expected.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// What was met where something else was needed.
pub(super) struct Fault {
    /// Byte of the file.
    pub at: usize,
    /// The fields that lead to it, with points between them; none outside of fields.
    pub field: Option<String>,
    pub reason: String,
}

type Result<T> = std::result::Result<T, Fault>;

/// A place in a file.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A part of an array, for one thread.
pub(super) struct Chunk<'a> {
    /// At its first element.
    pub reader: Reader<'a>,
    /// Index of its first element in the array.
    pub first: usize,
    /// Number of its elements.
    pub count: usize,
}

impl<'a> Reader<'a> {
    /// Length of an array's parts in bytes.
    const CHUNK: usize = 1 << 16;

    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte that is not white space; it is not consumed.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    pub fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault { at: self.at, field: None, reason: reason.into() }
    }

    /// That something else comes next than is needed.
    pub fn unlike(&mut self, needed: &str) -> Fault {
        if self.peek().is_none() {
            return self.fault(format!("the file ends where {needed} should be; it is truncated"));
        }
        let next = &self.bytes[self.at..self.bytes.len().min(self.at + 24)];
        let next = String::from_utf8_lossy(next);
        let next = next.lines().next().unwrap_or_default();
        self.fault(format!("{needed} should be at {next:?}"))
    }

    /// Whether a byte comes next; it is consumed.
    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.peek() == Some(byte);
        self.at += usize::from(eaten);
        eaten
    }

    fn expect(&mut self, byte: u8, needed: &str) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.unlike(needed)) }
    }

    /// Nothing but white space is left.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unlike("the end of the file")),
        }
    }

    /// Calls `f` with each key of an object; it must consume the value.
    pub fn object(&mut self, mut f: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.expect(b'{', "an object")?;
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "a colon")?;
            f(self, &key).map_err(|fault| {
                let field = fault.field.map_or_else(|| key.to_string(), |inner| format!("{key}.{inner}"));
                Fault { field: Some(field), ..fault }
            })?;
            if !self.eat(b',') {
                return self.expect(b'}', "a comma or a closing brace");
            }
        }
    }

    /// Calls `f` at each element of an array; it must consume the element.
    pub fn array(&mut self, mut f: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b'[', "an array")?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            f(self)?;
            if !self.eat(b',') {
                return self.expect(b']', "a comma or a closing bracket");
            }
        }
    }

    /// An array of values that `f` reads.
    pub fn list<T>(&mut self, mut f: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut values = Vec::new();
        self.array(|reader| {
            values.push(f(reader)?);
            Ok(())
        })?;
        Ok(values)
    }

    /// Consumes an array, and gives its parts.
    pub fn chunks(&mut self) -> Result<Vec<Chunk<'a>>> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut index = 0;
        self.array(|reader| {
            reader.peek();
            match chunks.last_mut() {
                Some(chunk) if reader.at - chunk.reader.at < Self::CHUNK => chunk.count += 1,
                _ => chunks.push(Chunk { reader: reader.clone(), first: index, count: 1 }),
            }
            index += 1;
            reader.skip()
        })?;
        Ok(chunks)
    }

    /// Consumes the comma between two elements of a part.
    pub fn next_element(&mut self) {
        self.eat(b',');
    }

    /// A value that may be `null`.
    pub fn nullable<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.peek() == Some(b'n') && self.bytes[self.at..].starts_with(b"null") {
            self.at += 4;
            return Ok(None);
        }
        f(self).map(Some)
    }

    /// The characters of a number, a NaN or a truth value.
    fn word(&mut self) -> &'a str {
        self.peek();
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        str::from_utf8(&rest[..length]).unwrap_or_default()
    }

    /// A finite number.
    pub fn number(&mut self) -> Result<f64> {
        let word = self.word();
        let value = match word.trim_start_matches('-') {
            "NaN" | "Infinity" => None,
            digits if digits.starts_with(|first: char| first.is_ascii_digit()) => {
                Some(word.parse::<f64>().map_err(|_| self.unlike("a number"))?)
            }
            _ => return Err(self.unlike("a number")),
        };
        let value = value.filter(|value| value.is_finite());
        let value =
            value.ok_or_else(|| self.fault(format!("{word} is not finite; correct the number or remove the entry")))?;
        self.at += word.len();
        Ok(value)
    }

    /// A whole number.
    pub fn integer(&mut self) -> Result<i64> {
        let word = self.word();
        if let Ok(value) = word.parse() {
            self.at += word.len();
            return Ok(value);
        }
        // Programs that keep ids as floats write 7.0.
        let before = self.clone();
        match self.number() {
            Ok(value) if value.fract() == 0.0 && value.abs() < 2f64.powi(53) => Ok(value as i64),
            _ => {
                *self = before;
                Err(self.unlike("a whole number"))
            }
        }
    }

    /// A whole number from 0 to 2³² - 1.
    pub fn unsigned(&mut self) -> Result<u32> {
        let before = self.clone();
        u32::try_from(self.integer()?).map_err(|_| before.clone().unlike("a number from 0 to 4294967295"))
    }

    /// `true`, `false` or a number, of which only 0 is false.
    pub fn flag(&mut self) -> Result<bool> {
        let word = self.word();
        match word {
            "true" | "false" => {
                self.at += word.len();
                Ok(word == "true")
            }
            _ => Ok(self.number()? != 0.0),
        }
    }

    /// Consumes a string, and gives it as it is in the file, with its quotation marks.
    fn quoted(&mut self) -> Result<&'a [u8]> {
        self.expect(b'"', "a string")?;
        let first = self.at - 1;
        while let Some(found) = memchr2(b'"', b'\\', &self.bytes[self.at..]) {
            let quote = self.bytes[self.at + found] == b'"';
            self.at = (self.at + found + if quote { 1 } else { 2 }).min(self.bytes.len());
            if quote {
                return Ok(&self.bytes[first..self.at]);
            }
        }
        self.at = first;
        Err(self.fault("the file ends within a string; it is truncated"))
    }

    /// A string without its escapes.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        self.peek();
        let at = self.at;
        let quoted = self.quoted()?;
        let inner = &quoted[1..quoted.len() - 1];
        let text = match memchr(b'\\', inner) {
            None => str::from_utf8(inner).ok().map(Cow::Borrowed),
            Some(_) => serde_json::from_slice(quoted).ok().map(Cow::Owned),
        };
        text.ok_or_else(|| Fault { at, field: None, reason: "a string that is not UTF-8 or has a wrong escape".into() })
    }

    /// Whether a string comes next.
    pub fn at_string(&mut self) -> bool {
        self.peek() == Some(b'"')
    }

    /// Whether an array comes next.
    pub fn at_array(&mut self) -> bool {
        self.peek() == Some(b'[')
    }

    /// Consumes a value of any kind, whose insides are not looked at.
    pub fn skip(&mut self) -> Result<()> {
        // Counted, not recursive: a million brackets must not overflow the stack.
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b'"') => drop(self.quoted()?),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => match self.word().len() {
                    0 => return Err(self.unlike("a value")),
                    length => self.at += length,
                },
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// Line and column of a byte, from 1.
pub(super) fn position(bytes: &[u8], at: usize) -> [usize; 2] {
    let before = &bytes[..at.min(bytes.len())];
    let lines = memchr::memchr_iter(b'\n', before).count();
    let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    [lines + 1, before.len() - start + 1]
}
