//! A TLS connection over a socket that does not block.

use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token, event::Source};
use rustls::ClientConnection;

use super::TlsClient;
use crate::stream::Stream;

/// A record, whole: 16 KiB of content, header, padding and tag.
const RECORD_BYTES_MAX: usize = 18 * 1024;
/// What is read at once until the handshake is complete: more than a server's part of it, as a rule.
const HANDSHAKE_READ_BYTES: usize = 8 * 1024;

/// Reads and writes content; records go and come underneath. A connection that is dropped says goodbye (close_notify).
#[derive(Debug)]
pub struct TlsStream {
    socket: Stream,
    session: ClientConnection,
    client: TlsClient,
    is_counted: bool,
    /// The last read has taken all that the socket had.
    emptied: bool,
}

impl TlsStream {
    /// Begins a handshake over a socket that connects.
    ///
    /// # Errors
    /// What rustls says.
    pub fn new(socket: Stream, client: &TlsClient) -> io::Result<Self> {
        let session = client.connection().map_err(io::Error::other)?;
        Ok(Self { socket, session, client: client.clone(), is_counted: false, emptied: false })
    }

    /// The socket.
    pub fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Whether the socket has connected and the handshake is complete, after as much of both as is possible now.
    ///
    /// # Errors
    /// The socket's, and what rustls says of what the server has sent.
    pub fn establish(&mut self) -> io::Result<bool> {
        if !self.socket.establish()? {
            return Ok(false);
        }
        let mut records = [0; HANDSHAKE_READ_BYTES];
        while self.session.is_handshaking() {
            self.flush()?;
            match self.socket.read(&mut records) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Content that comes with it stays where it is until it is read.
                Ok(length) => self.decrypt(&records[..length], &mut []).map(drop)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush()?;
        Ok(true)
    }

    /// Whether the last read has taken all that the socket had.
    pub fn is_emptied(&self) -> bool {
        self.emptied
    }

    /// Takes what came from the socket, and puts content into `content`, where there is room for it. How much there was.
    fn decrypt(&mut self, mut records: &[u8], content: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while !records.is_empty() {
            self.session.read_tls(&mut records)?;
            if let Err(error) = self.session.process_new_packets() {
                // The alert that tells the server why; what is told here is the first error.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            length += self.content(&mut content[length..])?;
        }
        if !self.is_counted && !self.session.is_handshaking() {
            self.is_counted = true;
            self.client.count(self.session.handshake_kind());
        }
        Ok(length)
    }

    /// Moves content that has been decrypted.
    fn content(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < room.len() {
            match self.session.reader().read(&mut room[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }
}

impl Read for TlsStream {
    /// `buffer` holds at least three records: records are read into its second part, and their content goes into the first.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        debug_assert!(
            buffer.len() >= 3 * RECORD_BYTES_MAX,
            "there is room for records and for their content"
        );
        // The first part is larger by the record of which there may be all but a byte already.
        let (content, records) = buffer.split_at_mut((buffer.len() + RECORD_BYTES_MAX) / 2);
        self.emptied = false;
        let waiting = self.content(content)?;
        if waiting > 0 {
            return Ok(waiting);
        }
        loop {
            let length = self.socket.read(records)?;
            if length == 0 {
                return Ok(0);
            }
            self.emptied = length < records.len();
            let taken = self.decrypt(&records[..length], content)?;
            // The handshake's answers.
            self.flush()?;
            if taken > 0 {
                return Ok(taken);
            }
        }
    }
}

impl Write for TlsStream {
    /// Takes all of it, or, when records have to wait for the socket, nothing. Before the handshake is complete it waits
    /// for that.
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.session.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = self.session.writer().write(content)?;
        self.flush()?;
        Ok(length)
    }

    /// Writes records as far as the socket takes them.
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        if !self.session.is_handshaking() {
            self.session.send_close_notify();
            // A server that has gone already is told nothing.
            let _ = self.flush();
        }
    }
}

impl Source for TlsStream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
