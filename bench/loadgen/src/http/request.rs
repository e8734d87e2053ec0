//! What is asked for: the URL, and the bytes of a request, made once.

use std::sync::Arc;

use crate::{address::Address, error::LoadError, limits::WRITE_BYTES_MAX};

/// Bytes of a request's body, at most.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Fields that follow from other options.
const OWN_FIELDS: [&str; 3] = ["Content-Length", "Transfer-Encoding", "Connection"];
/// Port of a URL that names none.
const DEFAULT_PORT: &str = "80";
/// The same with TLS.
const DEFAULT_TLS_PORT: &str = "443";

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The server.
    pub addr: Address,
    /// It is spoken to by TLS.
    pub tls: bool,
    /// What the field Host says.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH]`, the same with `https:`, or `unix:PATH` of a socket; `path` stands for the URL's, which then has none.
    ///
    /// # Errors
    /// [`LoadError::Url`], and those of [`Address::resolve`].
    pub fn read(given: &str, path: Option<&str>, allow_remote: bool) -> Result<Self, LoadError> {
        let refuse = |reason: &str| LoadError::Url { given: given.to_owned(), reason: reason.to_owned() };
        let tls = given.starts_with("https://");
        let default_port = if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let (addr, host, own_path) = match given.strip_prefix("http://").or(given.strip_prefix("https://")) {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, own_path) = rest.split_at(end);
                if host.contains('@') {
                    return Err(refuse("a user name in it is not supported; use --header Authorization"));
                }
                let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
                let addr = if has_port { host.to_owned() } else { format!("{host}:{default_port}") };
                let resolved = match Address::resolve(&addr, allow_remote) {
                    Err(LoadError::Address { reason, .. }) => return Err(refuse(&reason)),
                    other => other?,
                };
                (resolved, host, own_path)
            }
            None if given.starts_with("unix:") => match Address::resolve(given, allow_remote) {
                Err(LoadError::Address { reason, .. }) => return Err(refuse(&reason)),
                other => (other?, "localhost", ""),
            },
            None => return Err(refuse("it begins with neither http://, https:// nor unix:")),
        };
        let own_path = own_path.split_once('#').map_or(own_path, |(before, _)| before);
        let path = match (path, own_path) {
            (None, "") => "/".to_owned(),
            (None, own) if own.starts_with('?') => format!("/{own}"),
            (None, own) => own.to_owned(),
            (Some(path), "" | "/") => path.to_owned(),
            (Some(_), _) => return Err(refuse("it has a path, and --path is another one")),
        };
        Ok(Self { addr, tls, host: host.to_owned(), path })
    }
}

/// One request, as often as it goes into one write.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Box<[u8]>,
    length: usize,
    /// `GET /path`.
    pub line: Arc<str>,
    /// Its responses have no bodies.
    pub is_head: bool,
}

/// What a request is made of.
#[derive(Clone, Debug)]
pub struct RequestParts<'a> {
    /// GET and so on; not CONNECT.
    pub method: &'a str,
    /// Host and path.
    pub url: &'a Url,
    /// `Name: value` each.
    pub headers: &'a [String],
    /// Bytes of the body, at most [`BODY_BYTES_MAX`].
    pub body_bytes: usize,
    /// Whether the connection ends with it.
    pub closes: bool,
    /// Copies that may go out at once, at least 1.
    pub copies: u32,
}

impl Request {
    /// Builds it.
    ///
    /// # Errors
    /// [`LoadError::Option`] by the option's name, when a server could not read it.
    pub fn build(parts: &RequestParts<'_>) -> Result<Self, LoadError> {
        let RequestParts { method, url, headers, body_bytes, closes, copies } = parts;
        let refuse = |reason: String| Err(LoadError::Option(reason));
        if *method == "CONNECT" {
            return refuse("--method CONNECT: what follows would be no HTTP".to_owned());
        }
        if *body_bytes > BODY_BYTES_MAX {
            return refuse(format!("--body-bytes is at most {BODY_BYTES_MAX}"));
        }
        let names = |name: &str| {
            headers
                .iter()
                .filter_map(|header| header.split_once(':'))
                .any(|(given, _)| given.eq_ignore_ascii_case(name))
        };
        if let Some(own) = OWN_FIELDS.iter().find(|name| names(name)) {
            return refuse(format!(
                "--header {own}: the load generator sets it (--body-bytes, --new-connection)"
            ));
        }
        let mut head = format!("{method} {} HTTP/1.1\r\n", url.path);
        if !names("Host") {
            head += &format!("Host: {}\r\n", url.host);
        }
        for header in *headers {
            match header.split_once(':') {
                Some((name, _)) if !name.is_empty() && !header.contains(['\r', '\n']) => {
                    head += &format!("{header}\r\n");
                }
                _ => return refuse(format!("--header {header:?} is not 'Name: value'")),
            }
        }
        if *closes {
            head += "Connection: close\r\n";
        }
        if *body_bytes > 0 || ["POST", "PUT", "PATCH"].contains(method) {
            head += &format!("Content-Length: {body_bytes}\r\n");
        }
        head += "\r\n";
        check(&head, method)?;
        let mut one = head.into_bytes();
        one.resize(one.len() + body_bytes, b'x');
        let length = one.len();
        let copies = (*copies as usize).clamp(1, (WRITE_BYTES_MAX / length).max(1));
        Ok(Self {
            bytes: one.repeat(copies).into_boxed_slice(),
            length,
            line: format!("{method} {}", url.path).into(),
            is_head: *method == "HEAD",
        })
    }

    /// Bytes of one request.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// What follows `sent` bytes of requests one after the other, at most `left` of them.
    pub fn after(&self, sent: u64, left: u64) -> &[u8] {
        let start = (sent % self.length as u64) as usize;
        let available = self.bytes.len() - start;
        &self.bytes[start..start + (left.min(available as u64) as usize)]
    }
}

/// Reads the head as a server does.
fn check(head: &str, method: &str) -> Result<(), LoadError> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    let wrong = |reason: &str| {
        LoadError::Option(format!("--method, --url, --path or --header: no server could read it: {reason}"))
    };
    match request.parse(head.as_bytes()) {
        Ok(httparse::Status::Complete(length)) if length == head.len() && request.method == Some(method) => {
            Ok(())
        }
        Ok(_) => Err(wrong("it ends too soon")),
        Err(error) => Err(wrong(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &str) -> Result<Url, LoadError> {
        Url::read(given, None, false)
    }

    fn build(method: &str, headers: &[&str], body_bytes: usize, copies: u32) -> Result<Request, LoadError> {
        let url = read("http://127.0.0.1:8080/a?b=c").unwrap();
        let headers: Vec<String> = headers.iter().map(|text| (*text).to_owned()).collect();
        Request::build(&RequestParts {
            method,
            url: &url,
            headers: &headers,
            body_bytes,
            closes: false,
            copies,
        })
    }

    #[test]
    fn urls_are_read_with_and_without_port_and_path() {
        let url = read("http://127.0.0.1:8080/a/b?c=d#e").unwrap();
        assert_eq!(
            (url.addr.to_string(), url.host, url.path),
            parts("127.0.0.1:8080", "127.0.0.1:8080", "/a/b?c=d")
        );
        let url = read("http://127.0.0.1").unwrap();
        assert_eq!((url.addr.to_string(), url.host, url.path), parts("127.0.0.1:80", "127.0.0.1", "/"));
        let url = read("http://[::1]?q").unwrap();
        assert_eq!((url.addr.to_string(), url.host, url.path), parts("[::1]:80", "[::1]", "/?q"));
        assert!(!url.tls);
        let url = read("https://127.0.0.1/a").unwrap();
        assert!(url.tls);
        assert_eq!((url.addr.to_string(), url.host, url.path), parts("127.0.0.1:443", "127.0.0.1", "/a"));
        let url = Url::read("unix:/tmp/x.sock", Some("/y"), false).unwrap();
        assert_eq!((url.addr.to_string(), url.host, url.path), parts("unix:/tmp/x.sock", "localhost", "/y"));
    }

    fn parts(addr: &str, host: &str, path: &str) -> (String, String, String) {
        (addr.to_owned(), host.to_owned(), path.to_owned())
    }

    #[test]
    fn urls_that_cannot_be_are_refused_by_name() {
        for (given, reason) in [
            ("https://127.0.0.1:0/", "port 0"),
            ("127.0.0.1:80", "neither http://, https:// nor unix:"),
            ("http://127.0.0.1:0/", "port 0"),
            ("http://user@127.0.0.1/", "user name"),
            ("http:///x", "--url http:///x: "),
            ("unix:", "the path is empty"),
        ] {
            let error = read(given).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--url {given}: ")) && error.contains(reason), "{error}");
        }
        assert!(Url::read("http://127.0.0.1/a", Some("/b"), false).is_err());
        assert!(matches!(read("http://192.0.2.1/"), Err(LoadError::Remote { .. })));
    }

    #[test]
    fn requests_are_repeated_for_one_write() {
        let request = build("GET", &["Accept: */*"], 0, 16).unwrap();
        let text = "GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: */*\r\n\r\n";
        assert_eq!(request.length(), text.len() as u64);
        assert_eq!(request.after(0, u64::MAX), text.repeat(16).as_bytes());
        assert_eq!(request.after(request.length() * 5, request.length()), text.as_bytes());
        assert_eq!(request.after(request.length() * 5 + 3, 4), &text.as_bytes()[3..7]);
        assert_eq!(&*request.line, "GET /a?b=c");
    }

    #[test]
    fn a_body_is_announced_and_host_may_be_another() {
        let request = build("POST", &["host: example.com"], 3, 1).unwrap();
        let text = "POST /a?b=c HTTP/1.1\r\nhost: example.com\r\nContent-Length: 3\r\n\r\nxxx";
        assert_eq!(request.after(0, u64::MAX), text.as_bytes());
        // Larger than what one write takes: one copy, sent in parts.
        assert_eq!(build("PUT", &[], 1 << 20, 16).unwrap().after(0, u64::MAX).len(), (1 << 20) + 70);
    }

    #[test]
    fn requests_that_no_server_could_read_are_refused_by_name() {
        let refused = |method, header: &str| build(method, &[header], 0, 1).unwrap_err().to_string();
        assert!(refused("CONNECT", "A: b").starts_with("--method CONNECT"));
        assert!(refused("GE T", "A: b").starts_with("--method"));
        assert!(refused("GET", "content-length: 5").starts_with("--header Content-Length"));
        for header in ["A", ": b", "A: b\r\nC: d"] {
            assert!(refused("GET", header).contains("is not 'Name: value'"), "{header}");
        }
        assert!(refused("GET", "A b: c").contains("no server could read it"));
        assert!(
            build("POST", &[], BODY_BYTES_MAX + 1, 1).unwrap_err().to_string().starts_with("--body-bytes")
        );
    }
}
