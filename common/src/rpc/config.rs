//! The section `[rpc]` of both configurations: three files, or the word that there shall be none.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Credentials, Party, Rpc, TlsFiles};
use crate::cluster_key::ClusterKey;

/// `[rpc]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RpcSection {
    /// No TLS, and no files: for networks that nobody else is on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plaintext: bool,
    /// Certificates of the cluster's CAs (PEM): one, or two while the CA is being replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This process's certificate (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// What is wrong with the section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct RpcFault {
    /// The configuration key at fault, such as `rpc.ca_file`.
    pub key: &'static str,
    /// A sentence.
    pub message: String,
}

impl RpcSection {
    /// The files; none: in the clear.
    ///
    /// # Errors
    /// A key that is missing, or that contradicts another.
    pub fn files(&self) -> Result<Option<TlsFiles>, RpcFault> {
        let fault = |key, message: &str| RpcFault {
            key,
            message: message.to_owned(),
        };
        let files = [
            ("rpc.ca_file", &self.ca_file),
            ("rpc.certificate_file", &self.certificate_file),
            ("rpc.key_file", &self.key_file),
        ];
        if self.plaintext {
            return match files.iter().find(|(_, path)| path.is_some()) {
                Some((key, _)) => Err(fault(key, "no files with rpc.plaintext = true")),
                None => Ok(None),
            };
        }
        let given = |at: usize| {
            let (key, path) = files[at];
            let text = "is missing: name the three files (`maiactl cert` makes them), or say \
                        rpc.plaintext = true";
            path.clone().ok_or_else(|| fault(key, text))
        };
        Ok(Some(TlsFiles {
            ca: given(0)?,
            certificate: given(1)?,
            key: given(2)?,
        }))
    }

    /// What it takes to speak; `me` is whom the certificate must name.
    ///
    /// # Errors
    /// The key at fault, and what is wrong with the file that it names.
    pub fn open(&self, me: Party, key: &ClusterKey) -> Result<Rpc, RpcFault> {
        Ok(match self.files()? {
            None => Rpc::plaintext(key),
            Some(files) => Rpc::tls(Credentials::load(files, me)?),
        })
    }

    /// As [`open`](Self::open), only to see whether it would do.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn check(&self, me: Party) -> Result<(), RpcFault> {
        if let Some(files) = self.files()? {
            Credentials::load(files, me)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> Result<Option<TlsFiles>, RpcFault> {
        toml::from_str::<RpcSection>(text).unwrap().files()
    }

    #[test]
    fn nothing_is_in_the_clear_unless_it_says_so() {
        assert_eq!(section("plaintext = true"), Ok(None));
        let whole = "ca_file = \"a\"\ncertificate_file = \"b\"\nkey_file = \"c\"\n";
        assert!(section(whole).unwrap().is_some());
        let cases = [
            ("", "rpc.ca_file"),
            ("plaintext = false", "rpc.ca_file"),
            ("ca_file = \"a\"", "rpc.certificate_file"),
            ("ca_file = \"a\"\ncertificate_file = \"b\"", "rpc.key_file"),
            ("plaintext = true\nkey_file = \"c\"", "rpc.key_file"),
        ];
        for (text, key) in cases {
            assert_eq!(section(text).unwrap_err().key, key, "{text}");
        }
        assert!(toml::from_str::<RpcSection>("plain = true").is_err());
    }
}
