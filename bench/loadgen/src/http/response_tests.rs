use super::*;

/// Responses of every kind, as a server might pipeline them, and what each is.
const STREAM: &[(&str, u16, bool)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, false),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nworld", 200, false),
    ("HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n", 204, false),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 700\r\n\r\n", 304, false),
    ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, false),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", 201, false),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1A;name=\"value\"\r\n\
         abcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
        200,
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2 \r\n\r\n\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        200,
        false,
    ),
    ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, false),
    (
        "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nno",
        500,
        true,
    ),
];

fn read_all(pieces: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Response>, Malformed> {
    let (mut reader, mut heads) = (ResponseReader::new(), Heads::new(false));
    let mut found = Vec::new();
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            let (taken, response) = reader.read(&piece[at..], &mut heads)?;
            assert!(taken > 0 && (response.is_some() || at + taken == piece.len()));
            at += taken;
            found.extend(response);
        }
    }
    assert_eq!(reader.at_end(), AtEnd::Between);
    Ok(found)
}

fn stream() -> (Vec<u8>, Vec<Response>) {
    let bytes = STREAM.iter().flat_map(|(text, ..)| text.bytes()).collect();
    let expected = STREAM.iter().map(|&(_, status, closes)| Response { status, closes }).collect();
    (bytes, expected)
}

#[test]
fn responses_are_the_same_wherever_they_are_split() {
    let (bytes, expected) = stream();
    for at in 0..=bytes.len() {
        let pieces = [bytes[..at].to_vec(), bytes[at..].to_vec()];
        assert_eq!(read_all(pieces.into_iter()).unwrap(), expected, "split at {at}");
    }
    assert_eq!(read_all(bytes.iter().map(|byte| vec![*byte])).unwrap(), expected);
}

#[test]
fn responses_are_the_same_in_pieces_of_any_length() {
    let (bytes, expected) = stream();
    let mut state = 0x5eed_u64;
    for round in 0..2000 {
        let (mut pieces, mut left) = (Vec::new(), &bytes[..]);
        while !left.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = (1 + (state >> 33) as usize % (1 + round % 97)).min(left.len());
            pieces.push(left[..length].to_vec());
            left = &left[length..];
        }
        assert_eq!(read_all(pieces.into_iter()).unwrap(), expected, "round {round}");
    }
}

#[test]
fn answers_to_head_have_no_body() {
    let (mut reader, mut heads) = (ResponseReader::new(), Heads::new(true));
    let bytes =
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (taken, response) = reader.read(bytes, &mut heads).unwrap();
    assert_eq!((taken, response.unwrap().status), (38, 200));
    let (taken, response) = reader.read(&bytes[38..], &mut heads).unwrap();
    assert_eq!((taken, response.unwrap().closes), (bytes.len() - 38, false));
}

#[test]
fn a_response_without_a_length_ends_with_its_connection() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nand some bytes"] {
        let (mut reader, mut heads) = (ResponseReader::new(), Heads::new(false));
        assert_eq!(reader.read(head.as_bytes(), &mut heads), Ok((head.len(), None)));
        assert_eq!(reader.read(b"more", &mut heads), Ok((4, None)));
        assert_eq!(reader.at_end(), AtEnd::Completes(Response { status: 200, closes: true }));
    }
}

#[test]
fn an_end_within_a_response_is_told_with_what_has_come() {
    let (bytes, _) = stream();
    let first = STREAM[0].0.len();
    for length in 1..first {
        let (mut reader, mut heads) = (ResponseReader::new(), Heads::new(false));
        reader.read(&bytes[..length], &mut heads).unwrap();
        assert_eq!(reader.at_end(), AtEnd::CutShort(length as u64));
        reader.reset();
        assert_eq!(reader.at_end(), AtEnd::Between);
    }
}

#[test]
fn a_head_that_is_like_the_last_one_only_at_first_is_read_anew() {
    let (mut reader, mut heads) = (ResponseReader::new(), Heads::new(false));
    for length in [2, 22, 2, 222] {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        let (taken, response) = reader.read(text.as_bytes(), &mut heads).unwrap();
        assert!(taken == text.len() && response.is_some(), "{text}");
    }
}

#[test]
fn what_is_malformed_is_refused_by_name_in_one_piece_and_byte_by_byte() {
    let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let long = |length: usize| "x".repeat(length);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), Malformed::Start),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(), Malformed::Start),
        ("HTTP/2 200 OK\r\n\r\n".to_owned(), Malformed::Start),
        ("HTTP/1.1 20x OK\r\n\r\n".to_owned(), Malformed::Head(httparse::Error::Status)),
        ("HTTP/1.1 099 OK\r\n\r\n".to_owned(), Malformed::Status),
        ("HTTP/1.1 600 OK\r\n\r\n".to_owned(), Malformed::Status),
        ("HTTP/1.1 101 Switching\r\n\r\n".to_owned(), Malformed::Switched),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_owned(), Malformed::BareLineFeed),
        (with("Content-Length : 5"), Malformed::Head(httparse::Error::HeaderName)),
        (with("Content-Length: +5"), Malformed::ContentLength),
        (with("Content-Length:"), Malformed::ContentLength),
        (with("Content-Length: 5, 5"), Malformed::ContentLength),
        (with("Content-Length: 99999999999999999999999"), Malformed::ContentLength),
        (with("Content-Length: 5\r\nContent-Length: 6"), Malformed::ContentLength),
        (with("Transfer-Encoding: gzip, chunked"), Malformed::TransferEncoding),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Malformed::TransferEncoding),
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Malformed::TwoLengths),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Malformed::TransferEncoding),
        (with(&format!("X: {}", long(HEAD_BYTES_MAX))), Malformed::LongHead),
        (with(&"X: y\r\n".repeat(101)), Malformed::Head(httparse::Error::TooManyHeaders)),
        (chunked("\r\n"), Malformed::ChunkSize),
        (chunked("-1\r\n"), Malformed::ChunkSize),
        (chunked("0x5\r\n"), Malformed::ChunkSize),
        (chunked("10000000000000000\r\n"), Malformed::ChunkSize),
        (chunked("5\nhello"), Malformed::ChunkSize),
        (chunked("5\rhello"), Malformed::ChunkEnd),
        (chunked("5\r\nhello!"), Malformed::ChunkEnd),
        (chunked("5\r\nhello\r!"), Malformed::ChunkEnd),
        (chunked("5;a\nhello"), Malformed::ChunkEnd),
        (chunked("0\r\n\n"), Malformed::ChunkEnd),
        (chunked("0\r\n\rx"), Malformed::ChunkEnd),
        (chunked(&format!("5;{}", long(5000))), Malformed::LongExtension),
        (chunked(&format!("0\r\n{}", "A: b\r\n".repeat(2000))), Malformed::LongExtension),
    ];
    for (text, expected) in cases {
        let shown = &text[..text.len().min(90)];
        let whole = read_all([text.clone().into_bytes()].into_iter());
        assert_eq!(whole.unwrap_err(), expected, "{shown:?}");
        // A long head byte by byte would be read as often as it has bytes.
        let step = if text.len() > 10_000 { 4096 } else { 1 };
        let pieces = text.as_bytes().chunks(step).map(<[u8]>::to_vec);
        assert_eq!(read_all(pieces).unwrap_err(), expected, "{shown:?} in pieces");
    }
}
