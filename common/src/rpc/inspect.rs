//! What a certificate says, for people and for whoever issues another. Checks nothing.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::material::{certificates, parsed};

/// A certificate's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its subject's organization: of a CA, the cluster. Empty: none.
    pub organization: String,
    /// Its subject's common name. Empty: none.
    pub common_name: String,
    /// The CA's common name. Empty: none.
    pub issuer: String,
    /// The URIs among its names.
    pub uris: Vec<String>,
    /// Seconds since 1970.
    pub not_before_unix_s: i64,
    /// Seconds since 1970.
    pub not_after_unix_s: i64,
    /// The public key's bits.
    pub public_key: Vec<u8>,
}

/// The certificates of a PEM file, in their order; at least one.
///
/// # Errors
/// A sentence.
pub fn inspect(pem: &[u8]) -> Result<Vec<Described>, String> {
    certificates(pem)?.iter().map(describe).collect()
}

pub(super) fn describe(certificate: &CertificateDer<'_>) -> Result<Described, String> {
    let parsed = parsed(certificate)?;
    let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        let value = value.and_then(|value| value.as_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let names = parsed.subject_alternative_name();
    let names = names.map_err(|error| format!("its names can't be read: {error}"))?;
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let uris = names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    Ok(Described {
        organization: text(parsed.subject().iter_organization().next()),
        common_name: text(parsed.subject().iter_common_name().next()),
        issuer: text(parsed.issuer().iter_common_name().next()),
        uris: uris.collect(),
        not_before_unix_s: parsed.validity().not_before.timestamp(),
        not_after_unix_s: parsed.validity().not_after.timestamp(),
        public_key: parsed.public_key().subject_public_key.data.to_vec(),
    })
}
