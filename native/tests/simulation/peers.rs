//! What the peers do: they connect, send, read or stall, end and reset.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::ledger::{Account, PeerEnd};
use crate::network::Id;
use crate::site::Site;
use crate::violation::note;
use std::io;

/// All of them.
#[derive(Debug, Default)]
pub struct Peers {
    /// Those that have not heard the end.
    pub live: Vec<Id>,
    buffer: Vec<u8>,
}

impl Peers {
    /// One connects.
    pub fn connect(&mut self, site: &mut impl Site, port: u32, accounts: &mut Vec<Account>, draw: &mut Draw) {
        let Some(id) = site.connect(port, draw) else { return };
        assert_eq!(id as usize, accounts.len(), "connections are numbered in order");
        note(|| format!("  {id} connects to {port}"));
        accounts.push(Account::new(id));
        self.live.push(id);
    }

    /// One does something. False when there is none.
    pub fn stir(
        &mut self,
        site: &mut impl Site,
        accounts: &mut [Account],
        most: usize,
        draw: &mut Draw,
    ) -> bool {
        if self.live.is_empty() {
            return false;
        }
        let index = draw.below(self.live.len());
        let account = &mut accounts[self.live[index] as usize];
        let gone = match draw.below(1000) {
            0..=549 => {
                let length = draw.size(most);
                send(site, account, length);
                false
            }
            550..=989 => {
                let length = draw.size(most);
                self.receive(site, account, length)
            }
            990..=995 => {
                finish(site, account);
                false
            }
            996..=998 => {
                note(|| format!("  peer {} resets", account.id));
                account.peer_reset = true;
                account.end = Some(PeerEnd::Reset);
                site.reset(account.id);
                true
            }
            _ => false,
        };
        if gone {
            self.live.swap_remove(index);
        }
        true
    }

    /// All read what there is, and those that `end` end what they send. Whether anything happened.
    pub fn settle(&mut self, site: &mut impl Site, accounts: &mut [Account], end: bool) -> bool {
        let mut news = false;
        let live = std::mem::take(&mut self.live);
        for id in live {
            let account = &mut accounts[id as usize];
            if end && !account.finished {
                finish(site, account);
                news = true;
            }
            let before = account.delivered;
            let gone = self.receive(site, account, usize::MAX);
            news |= gone || account.delivered > before;
            if !gone {
                self.live.push(id);
            }
        }
        news
    }

    /// Reads so many bytes, as far as they are there. Whether that came to the end.
    fn receive(&mut self, site: &mut impl Site, account: &mut Account, mut most: usize) -> bool {
        self.buffer.resize(1 << 16, 0);
        while most > 0 {
            let length = most.min(self.buffer.len());
            match site.receive(account.id, &mut self.buffer[..length]) {
                Ok(0) if !account.heard_reset => {
                    note(|| format!("  peer {} hears the end", account.id));
                    account.peer_heard_end();
                    account.finished = true;
                    account.ended_at = Some(site.now());
                    site.close(account.id);
                    return true;
                }
                Ok(count @ 1..) => {
                    account.delivered(&self.buffer[..count]);
                    most -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                end => {
                    note(|| format!("  peer {} hears a reset: {end:?}", account.id));
                    account.end = Some(PeerEnd::Reset);
                    account.ended_at = Some(site.now());
                    account.finished = true;
                    site.close(account.id);
                    return true;
                }
            }
        }
        false
    }
}

fn send(site: &mut impl Site, account: &mut Account, length: usize) {
    if account.finished {
        return;
    }
    match site.send(account.id, account.next_sent(length)) {
        Ok(count) => {
            note(|| format!("  peer {} sends {count} bytes", account.id));
            account.sent += count as u64;
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        // What has come before is still to be read; but reading may say no more than that it is the end.
        Err(_) => account.heard_reset = true,
    }
}

fn finish(site: &mut impl Site, account: &mut Account) {
    if !account.finished {
        note(|| format!("  peer {} ends, behind {} bytes", account.id, account.sent));
        account.finished = true;
        site.finish(account.id);
    }
}
