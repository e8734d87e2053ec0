//! Options of TLS on the command line.

use super::{TlsClient, TlsVersion};
use crate::{address::Address, error::LoadError};

/// What stands before the address of a server that speaks TLS, in its ready line.
const SCHEME: &str = "tls://";

/// See `loadgen echo --help`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArguments {
    /// Over TLS, as tls:// before the address has it too; whatever certificate the server has is accepted
    #[arg(long)]
    tls: bool,
    /// The one version that is offered (default 1.3), with AES-128-GCM and X25519
    #[arg(long, value_enum, value_name = "VERSION")]
    tls_version: Option<TlsVersion>,
}

impl TlsArguments {
    /// The address, and how to connect to it by TLS, if that is asked for; `resumes` as [`TlsClient::new`] has it.
    ///
    /// # Errors
    /// As [`Address::resolve`]; and [`LoadError::Option`] when one of these options stands without TLS.
    pub fn resolve(
        &self,
        given: &str,
        allow_remote: bool,
        resumes: bool,
    ) -> Result<(Address, Option<TlsClient>), LoadError> {
        let bare = given.strip_prefix(SCHEME);
        let addr = Address::resolve(bare.unwrap_or(given), allow_remote)?;
        if !self.tls && bare.is_none() {
            return match resumes || self.tls_version.is_some() {
                true => {
                    let message = "--tls-version and --tls-resume are for TLS: --tls, or tls:// in --addr";
                    Err(LoadError::Option(message.to_owned()))
                }
                false => Ok((addr, None)),
            };
        }
        let version = self.tls_version.unwrap_or(TlsVersion::V1_3);
        Ok((addr, Some(TlsClient::new(version, resumes)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(tls: bool, given: &str, resumes: bool) -> Result<(Address, Option<TlsClient>), LoadError> {
        TlsArguments { tls, tls_version: None }.resolve(given, false, resumes)
    }

    #[test]
    fn tls_is_asked_for_by_the_option_or_the_scheme() {
        for (tls, given, wanted) in [
            (false, "127.0.0.1:7000", false),
            (false, "tcp://127.0.0.1:7000", false),
            (false, "tls://127.0.0.1:7000", true),
            (true, "127.0.0.1:7000", true),
            (true, "unix:/tmp/x.sock", true),
        ] {
            assert_eq!(resolve(tls, given, false).unwrap().1.is_some(), wanted, "{tls} {given}");
        }
    }

    #[test]
    fn sessions_are_not_resumed_without_tls() {
        let error = resolve(false, "127.0.0.1:7000", true).unwrap_err().to_string();
        assert!(error.contains("--tls-resume are for TLS"), "{error}");
    }
}
