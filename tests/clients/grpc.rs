//! As much of gRPC as it takes to ask a daemon behind a socket one thing: one call a connection.
//!
//! RFC 9113 (HTTP/2), RFC 7541 (HPACK) without compression, and the protocol buffers' encoding. What comes
//! back compressed, the headers, is not read: an answer has data and an error has none.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A message being written.
#[derive(Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Adds a text, bytes or another message.
    pub(crate) fn bytes(mut self, field: u8, value: impl AsRef<[u8]>) -> Self {
        self.0.push(field << 3 | 2);
        varint(&mut self.0, value.as_ref().len() as u64);
        self.0.extend(value.as_ref());
        self
    }

    /// Adds a number.
    pub(crate) fn number(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        varint(&mut self.0, value);
        self
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        to.push(u8::try_from(value & 127).unwrap() | 128);
        value >>= 7;
    }
    to.push(u8::try_from(value).unwrap());
}

/// A message that was read: the fields that have bytes, with their numbers.
pub(crate) struct Fields(Vec<(u64, Vec<u8>)>);

impl Fields {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = take(&mut bytes);
            match key & 7 {
                0 => drop(take(&mut bytes)),
                2 => {
                    let length = usize::try_from(take(&mut bytes)).unwrap();
                    let (value, rest) = bytes.split_at(length);
                    fields.push((key >> 3, value.to_vec()));
                    bytes = rest;
                }
                other => panic!("a field of wire type {other}"),
            }
        }
        Self(fields)
    }

    /// Returns a message in a message.
    pub(crate) fn message(&self, field: u64) -> Self {
        Self::parse(self.0.iter().find(|(number, _)| *number == field).map_or(&[][..], |(_, bytes)| bytes))
    }

    /// Returns every message of a list.
    pub(crate) fn messages(&self, field: u64) -> impl Iterator<Item = Self> {
        self.0.iter().filter(move |(number, _)| *number == field).map(|(_, bytes)| Self::parse(bytes))
    }

    /// Returns a text; an empty one when there is none.
    pub(crate) fn text(&self, field: u64) -> String {
        let found = self.0.iter().find(|(number, _)| *number == field);
        found.map_or_else(String::new, |(_, bytes)| String::from_utf8(bytes.clone()).unwrap())
    }
}

fn take(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 127) << shift;
        if first & 128 == 0 {
            break;
        }
    }
    value
}

/// Makes a call; `None` is an error, of which the daemon's log tells more.
pub(crate) fn call(socket: &str, method: &str, request: &Message) -> Option<Fields> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    frame(&mut stream, SETTINGS, 0, 0, &[]);
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal with a literal name, never indexed; both shorter than 127 bytes.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend(text.as_bytes());
        }
    }
    frame(&mut stream, HEADERS, END_HEADERS, 1, &headers);
    let mut body = vec![0];
    body.extend(u32::try_from(request.0.len()).unwrap().to_be_bytes());
    body.extend(&request.0);
    frame(&mut stream, DATA, END_STREAM, 1, &body);
    answer(&mut stream)
}

fn frame(stream: &mut UnixStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).unwrap();
}

/// Reads frames until the stream ends.
fn answer(stream: &mut UnixStream) -> Option<Fields> {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).unwrap();
        match kind {
            SETTINGS if flags & ACK == 0 => frame(stream, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(stream, PING, ACK, 0, &payload),
            GOAWAY => panic!("the daemon closes the connection: {payload:?}"),
            DATA => body.extend(payload),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            // One message, behind a byte that says it is not compressed and four with its length.
            return (body.len() >= 5).then(|| Fields::parse(&body[5..]));
        }
    }
}
