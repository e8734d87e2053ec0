//! A reader of HTTP/1 responses: bytes in as they come, whole responses out. Strict, for a response that only some clients
//! would understand is the server's fault; and no allocation for a response whose head comes in one piece.

/// Bytes of a head, at most.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of a head, at most.
const HEADERS_MAX: usize = 100;
/// Bytes of a chunk's extensions, and of all trailers, at most.
const EXTENSION_BYTES_MAX: u32 = 4096;
/// Digits of a chunk's size, at most.
const CHUNK_SIZE_DIGITS_MAX: u8 = 15;

/// A whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status, 200 and above.
    pub status: u16,
    /// The connection takes no further request.
    pub closes: bool,
}

/// Why bytes are no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It begins with something else than HTTP.
    #[error("it does not begin with HTTP/1")]
    Start,
    /// A line of the head is not what it should be.
    #[error("its head is wrong: {0}")]
    Head(httparse::Error),
    /// A line of the head ends without a carriage return.
    #[error("a line of its head ends by a line feed alone")]
    BareLineFeed,
    /// The head does not end.
    #[error("its head is longer than {HEAD_BYTES_MAX} bytes")]
    LongHead,
    /// A Content-Length is no number, or there are two of them that differ.
    #[error("its Content-Length is no number, or there are two that differ")]
    ContentLength,
    /// A Transfer-Encoding other than chunked.
    #[error("its Transfer-Encoding is not chunked, or it is HTTP/1.0, which knows none")]
    TransferEncoding,
    /// Two ways to tell where the body ends.
    #[error("it has a Content-Length and a Transfer-Encoding")]
    TwoLengths,
    /// Status 101, which nobody has asked for.
    #[error("it switches protocols, which nobody has asked for")]
    Switched,
    /// A status below 100 or above 599.
    #[error("its status is not from 100 to 599")]
    Status,
    /// The line before a chunk.
    #[error("a chunk does not begin with its size in hexadecimal digits")]
    ChunkSize,
    /// What follows a chunk is not the end of a line.
    #[error("a chunk is longer than its size, or a line of chunks does not end by CRLF")]
    ChunkEnd,
    /// Extensions of a chunk, or trailers, that do not end.
    #[error("a chunk's extensions or its trailers are longer than {EXTENSION_BYTES_MAX} bytes")]
    LongExtension,
}

/// What the end of a connection means to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It came between two responses.
    Between,
    /// It completes a response that has no other end.
    Completes(Response),
    /// It cuts a response short, of which so many bytes had come.
    CutShort(u64),
}

/// What a head says.
#[derive(Clone, Copy)]
struct Head {
    bytes: usize,
    status: u16,
    body: Body,
    closes: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Body {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Reads heads, for all connections of a run. One that is the same as the last, byte by byte, is not parsed again: a
/// server's responses differ by the second that their date names.
pub struct Heads {
    to_head_requests: bool,
    last: Vec<u8>,
    head: Option<Head>,
}

impl Heads {
    /// `to_head_requests`: the responses have no bodies, whatever they say.
    pub fn new(to_head_requests: bool) -> Self {
        Self { to_head_requests, last: Vec::new(), head: None }
    }

    /// The head at the beginning of `bytes`; none while it is not whole.
    fn read(&mut self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        if let Some(head) = self.head {
            // A head ends where no longer one can, so that what begins with it has this one.
            if bytes.starts_with(&self.last) {
                return Ok(Some(head));
            }
        }
        let begins = bytes.len().min(7);
        if bytes[..begins] != b"HTTP/1."[..begins] {
            return Err(Malformed::Start);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).map_err(Malformed::Head)?;
        let (length, is_whole) = match parsed {
            httparse::Status::Complete(length) => (length, true),
            httparse::Status::Partial => (bytes.len(), false),
        };
        if length > HEAD_BYTES_MAX {
            return Err(Malformed::LongHead);
        }
        if !is_whole {
            return Ok(None);
        }
        let is_bare = |at: usize| bytes[at] == b'\n' && bytes[at - 1] != b'\r';
        if (1..length).any(is_bare) {
            return Err(Malformed::BareLineFeed);
        }
        let head = self.understand(&response, length)?;
        self.last.clear();
        self.last.extend_from_slice(&bytes[..length]);
        self.head = Some(head);
        Ok(Some(head))
    }

    fn understand(&self, response: &httparse::Response<'_, '_>, bytes: usize) -> Result<Head, Malformed> {
        let status = response.code.ok_or(Malformed::Status)?;
        if !(100..600).contains(&status) {
            return Err(Malformed::Status);
        }
        if status == 101 {
            return Err(Malformed::Switched);
        }
        let is_old = response.version == Some(0);
        let (mut length, mut chunked, mut closes) = (None, false, is_old);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let given = content_length(header.value).ok_or(Malformed::ContentLength)?;
                if length.is_some_and(|other| other != given) {
                    return Err(Malformed::ContentLength);
                }
                length = Some(given);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || is_old || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::TransferEncoding);
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                let says = |word: &[u8]| {
                    header
                        .value
                        .split(|byte| *byte == b',')
                        .any(|token| token.trim_ascii().eq_ignore_ascii_case(word))
                };
                closes = says(b"close") || closes && !says(b"keep-alive");
            }
        }
        let body = match (chunked, length) {
            (true, Some(_)) => return Err(Malformed::TwoLengths),
            _ if self.to_head_requests || status < 200 || status == 204 || status == 304 => Body::None,
            (true, None) => Body::Chunked,
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::UntilClose,
        };
        Ok(Head { bytes, status, body, closes: closes || body == Body::UntilClose })
    }
}

/// Digits and nothing else.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

#[derive(Clone, Copy)]
enum State {
    Head,
    Body { left: u64 },
    UntilClose,
    ChunkSize { size: u64, digits: u8 },
    ChunkExtension { size: u64, bytes: u32 },
    ChunkSizeEnd { size: u64 },
    ChunkData { left: u64 },
    ChunkDataReturn,
    ChunkDataEnd,
    TrailerStart { bytes: u32 },
    Trailer { bytes: u32 },
    TrailerEnd { bytes: u32 },
    LastEnd,
}

/// One connection's responses, one after the other.
pub struct ResponseReader {
    state: State,
    response: Response,
    /// The beginning of a head that did not come in one piece.
    partial: Vec<u8>,
    /// Bytes of the response so far.
    received: u64,
}

impl ResponseReader {
    /// Before the first response.
    pub fn new() -> Self {
        Self {
            state: State::Head,
            response: Response { status: 0, closes: false },
            partial: Vec::new(),
            received: 0,
        }
    }

    /// Forgets what has come, for a new connection.
    pub fn reset(&mut self) {
        (self.state, self.received) = (State::Head, 0);
        self.partial.clear();
    }

    /// Reads up to the end of a response. Tells how many bytes were taken, all of them unless a response is whole.
    ///
    /// # Errors
    /// [`Malformed`]; the reader is of no use afterwards, unless it is reset.
    pub fn read(&mut self, bytes: &[u8], heads: &mut Heads) -> Result<(usize, Option<Response>), Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            let (taken, is_whole) = self.step(&bytes[at..], heads)?;
            at += taken;
            self.received += taken as u64;
            if is_whole {
                (self.state, self.received) = (State::Head, 0);
                return Ok((at, Some(self.response)));
            }
        }
        Ok((at, None))
    }

    /// Bytes of the response that is not whole yet.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What it means that no more bytes come.
    pub fn at_end(&self) -> AtEnd {
        match self.state {
            State::UntilClose => AtEnd::Completes(self.response),
            State::Head if self.received == 0 => AtEnd::Between,
            _ => AtEnd::CutShort(self.received),
        }
    }

    /// Takes some bytes, at least one, in the present state; true when they end a response.
    fn step(&mut self, bytes: &[u8], heads: &mut Heads) -> Result<(usize, bool), Malformed> {
        let first = bytes[0];
        self.state = match self.state {
            State::Head => return self.read_head(bytes, heads),
            State::UntilClose => return Ok((bytes.len(), false)),
            State::Body { left } => {
                let taken = left.min(bytes.len() as u64);
                self.state = State::Body { left: left - taken };
                return Ok((taken as usize, taken == left));
            }
            State::ChunkData { left } => {
                let taken = left.min(bytes.len() as u64);
                self.state = if taken == left {
                    State::ChunkDataReturn
                } else {
                    State::ChunkData { left: left - taken }
                };
                return Ok((taken as usize, false));
            }
            State::ChunkSize { size, digits } => match (first, char::from(first).to_digit(16)) {
                (_, Some(digit)) if digits < CHUNK_SIZE_DIGITS_MAX => {
                    State::ChunkSize { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }
                (b'\r', None) if digits > 0 => State::ChunkSizeEnd { size },
                (b';' | b' ' | b'\t', None) if digits > 0 => State::ChunkExtension { size, bytes: 0 },
                _ => return Err(Malformed::ChunkSize),
            },
            State::ChunkExtension { size, bytes } => match first {
                b'\r' => State::ChunkSizeEnd { size },
                b'\n' => return Err(Malformed::ChunkEnd),
                _ => State::ChunkExtension { size, bytes: bounded(bytes)? },
            },
            State::ChunkSizeEnd { size } => {
                line_feed(first)?;
                if size == 0 { State::TrailerStart { bytes: 0 } } else { State::ChunkData { left: size } }
            }
            State::ChunkDataReturn if first == b'\r' => State::ChunkDataEnd,
            State::ChunkDataReturn => return Err(Malformed::ChunkEnd),
            State::ChunkDataEnd => {
                line_feed(first)?;
                State::ChunkSize { size: 0, digits: 0 }
            }
            State::TrailerStart { .. } if first == b'\r' => State::LastEnd,
            State::TrailerStart { bytes } | State::Trailer { bytes } => match first {
                b'\r' => State::TrailerEnd { bytes },
                b'\n' => return Err(Malformed::ChunkEnd),
                _ => State::Trailer { bytes: bounded(bytes)? },
            },
            State::TrailerEnd { bytes } => {
                line_feed(first)?;
                State::TrailerStart { bytes }
            }
            State::LastEnd => {
                line_feed(first)?;
                return Ok((1, true));
            }
        };
        Ok((1, false))
    }

    fn read_head(&mut self, bytes: &[u8], heads: &mut Heads) -> Result<(usize, bool), Malformed> {
        let before = self.partial.len();
        let found = if before == 0 {
            heads.read(bytes)?
        } else {
            self.partial.extend_from_slice(bytes);
            heads.read(&self.partial)?
        };
        let Some(head) = found else {
            if before == 0 {
                self.partial.extend_from_slice(bytes);
            }
            return Ok((bytes.len(), false));
        };
        self.partial.clear();
        self.response = Response { status: head.status, closes: head.closes };
        let mut is_whole = false;
        self.state = match head.body {
            // What it announces follows.
            Body::None if head.status < 200 => State::Head,
            Body::None | Body::Length(0) => {
                is_whole = true;
                State::Head
            }
            Body::Length(left) => State::Body { left },
            Body::Chunked => State::ChunkSize { size: 0, digits: 0 },
            Body::UntilClose => State::UntilClose,
        };
        Ok((head.bytes - before, is_whole))
    }
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

fn line_feed(byte: u8) -> Result<(), Malformed> {
    if byte == b'\n' { Ok(()) } else { Err(Malformed::ChunkEnd) }
}

fn bounded(bytes: u32) -> Result<u32, Malformed> {
    if bytes < EXTENSION_BYTES_MAX { Ok(bytes + 1) } else { Err(Malformed::LongExtension) }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
