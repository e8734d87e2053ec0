//! Versions, cipher suites and groups, by their names.
#![forbid(unsafe_code)]

use super::{ConfigError, provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// What is to be chosen from.
#[derive(Debug)]
pub struct Choices {
    /// The oldest version, `TLSv1.2` or `TLSv1.3`.
    pub min_version: String,
    /// The newest.
    pub max_version: String,
    /// Cipher suites in the order of preference; none: all that are there.
    pub ciphers: Option<Vec<String>>,
    /// Groups likewise.
    pub groups: Option<Vec<String>>,
}

impl Choices {
    /// The versions.
    pub fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, ConfigError> {
        let all = [("TLSv1.2", &TLS12), ("TLSv1.3", &TLS13)];
        let place = |what: &str, name: &str| {
            all.iter().position(|(known, _)| *known == name).ok_or_else(|| {
                ConfigError(format!("{what}: expected 'TLSv1.2' or 'TLSv1.3', given '{name}'"))
            })
        };
        let (min, max) = (place("minVersion", &self.min_version)?, place("maxVersion", &self.max_version)?);
        if min > max {
            return Err(ConfigError("minVersion: it is newer than maxVersion".into()));
        }
        Ok(all[min..=max].iter().map(|(_, version)| *version).collect())
    }

    /// The provider with what was chosen.
    pub fn provider(&self) -> Result<CryptoProvider, ConfigError> {
        let mut chosen = CryptoProvider::clone(provider());
        if let Some(names) = &self.ciphers {
            let known = |suite: &SupportedCipherSuite| suite_name(suite);
            chosen.cipher_suites = choose("ciphers", names, &chosen.cipher_suites, known, openssl_name)?;
        }
        if let Some(names) = &self.groups {
            chosen.kx_groups = choose("groups", names, &chosen.kx_groups, group_name, other_group_name)?;
        }
        let versions = self.versions()?;
        let fits = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
        if !chosen.cipher_suites.iter().any(fits) {
            return Err(ConfigError("ciphers: none of them is for a version that is allowed".into()));
        }
        Ok(chosen)
    }
}

fn choose<T: Copy>(
    what: &str,
    names: &[String],
    all: &[T],
    name_of: impl Fn(&T) -> String,
    other_name: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<T>, ConfigError> {
    let find = |name: &String| {
        let wanted = other_name(name).unwrap_or(name);
        all.iter().find(|item| name_of(item).eq_ignore_ascii_case(wanted)).copied().ok_or_else(|| {
            let known: Vec<_> = all.iter().map(&name_of).collect();
            ConfigError(format!("{what}: unknown '{name}'; known are {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// The names of all cipher suites, in the order of preference.
pub fn suite_names() -> Vec<String> {
    provider().cipher_suites.iter().map(suite_name).collect()
}

/// The names of all groups, in the order of preference.
pub fn group_names() -> Vec<String> {
    provider().kx_groups.iter().map(group_name).collect()
}

fn suite_name(suite: &SupportedCipherSuite) -> String {
    iana_name(&format!("{:?}", suite.suite()))
}

/// rustls has a prefix of its own for those of TLS 1.3.
pub fn iana_name(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

fn group_name(group: &&'static dyn SupportedKxGroup) -> String {
    format!("{:?}", group.name())
}

/// The IANA name of what OpenSSL names in another way.
fn openssl_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "ECDHE-ECDSA-AES256-GCM-SHA384" => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256" => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384" => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES128-GCM-SHA256" => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        _ => return None,
    })
}

fn other_group_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "P-256" | "prime256v1" => "secp256r1",
        "P-384" => "secp384r1",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(min: &str, max: &str, ciphers: Option<&[&str]>, groups: Option<&[&str]>) -> Choices {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Choices {
            min_version: min.into(),
            max_version: max.into(),
            ciphers: ciphers.map(owned),
            groups: groups.map(owned),
        }
    }

    #[test]
    fn names_of_openssl_and_of_iana_mean_the_same() {
        let names = ["ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
        let chosen =
            choices("TLSv1.2", "TLSv1.3", Some(&names), Some(&["P-256", "x25519"])).provider().unwrap();
        assert_eq!(chosen.cipher_suites[0], chosen.cipher_suites[1]);
        assert_eq!(chosen.kx_groups.iter().map(group_name).collect::<Vec<_>>(), ["secp256r1", "X25519"]);
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_are_known() {
        let error = choices("TLSv1.2", "TLSv1.3", Some(&["RC4-MD5"]), None).provider().unwrap_err();
        assert!(error.0.starts_with("ciphers: unknown 'RC4-MD5'; known are TLS_AES_"), "{error}");
        let error = choices("TLSv1.2", "TLSv1.3", None, Some(&["P-1"])).provider().unwrap_err();
        assert!(error.0.contains("secp256r1"), "{error}");
    }

    #[test]
    fn versions_and_ciphers_that_exclude_each_other_are_refused() {
        assert!(choices("TLSv1.3", "TLSv1.2", None, None).versions().is_err());
        assert!(choices("SSLv3", "TLSv1.2", None, None).versions().is_err());
        let old = choices("TLSv1.3", "TLSv1.3", Some(&["ECDHE-RSA-AES128-GCM-SHA256"]), None);
        assert!(old.provider().is_err());
    }

    #[test]
    fn the_groups_of_a_build_with_aws_lc_begin_with_one_that_resists_quantum_computers() {
        if cfg!(feature = "aws-lc-rs") {
            assert_eq!(group_names()[0], "X25519MLKEM768");
        }
    }
}
