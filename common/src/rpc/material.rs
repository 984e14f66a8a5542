//! The three files of one process, read, checked and made into what TLS takes. Certificates that have
//! expired are taken all the same: the others refuse them, and newer ones may be put in their place
//! while the process runs. Called by `Credentials`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::config::RpcFault;
use super::identity::Identity;
use super::inspect::describe;
use super::verify::OfCluster;
use crate::limits;

/// Where a process finds what proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the cluster's CAs.
    pub ca: PathBuf,
    /// Its own certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the files can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// The CAs' file.
    #[error("{}: {reason}", file.display())]
    Ca {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate's file.
    #[error("{}: {reason}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key's file.
    #[error("{}: {reason}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<TlsFault> for RpcFault {
    fn from(fault: TlsFault) -> Self {
        RpcFault {
            key: match &fault {
                TlsFault::Ca { .. } => "rpc.ca_file",
                TlsFault::Certificate { .. } => "rpc.certificate_file",
                TlsFault::Key { .. } => "rpc.key_file",
            },
            message: fault.to_string(),
        }
    }
}

/// What is in the files, as TLS takes it.
pub(super) struct Material {
    /// Of the files' contents: the same contents are the same material.
    pub(super) print: blake3::Hash,
    /// Whom the certificate names.
    pub(super) identity: Identity,
    /// Seconds since 1970.
    pub(super) expires_unix_s: i64,
    /// Of the CA certificate that expires first.
    pub(super) ca_expires_unix_s: i64,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl TlsFiles {
    fn ca_fault(&self, reason: impl ToString) -> TlsFault {
        TlsFault::Ca {
            file: self.ca.clone(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn certificate_fault(&self, reason: impl ToString) -> TlsFault {
        TlsFault::Certificate {
            file: self.certificate.clone(),
            reason: reason.to_string(),
        }
    }

    fn key_fault(&self, reason: impl ToString) -> TlsFault {
        TlsFault::Key {
            file: self.key.clone(),
            reason: reason.to_string(),
        }
    }

    /// Reads and checks all three. Blocks.
    pub(super) fn read(&self) -> Result<Material, TlsFault> {
        let ca = read(&self.ca).map_err(|e| self.ca_fault(e))?;
        let own = read(&self.certificate).map_err(|e| self.certificate_fault(e))?;
        let key = read(&self.key).map_err(|e| self.key_fault(e))?;
        let mut print = blake3::Hasher::new();
        for content in [&ca, &own, &key] {
            print.update(blake3::hash(content).as_bytes());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let cas = certificates(&ca).map_err(|e| self.ca_fault(e))?;
        let mut roots = RootCertStore::empty();
        let mut ca_expires_unix_s = i64::MAX;
        for ca in cas {
            let described = describe(&ca).map_err(|e| self.ca_fault(e))?;
            ca_expires_unix_s = ca_expires_unix_s.min(described.not_after_unix_s);
            roots.add(ca).map_err(|e| self.ca_fault(e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&own).map_err(|e| self.certificate_fault(e))?;
        let identity = identity_of(&chain[0]).map_err(|e| self.certificate_fault(e))?;
        let described = describe(&chain[0]).map_err(|e| self.certificate_fault(e))?;
        let expires_unix_s = described.not_after_unix_s;
        let algorithms = provider.signature_verification_algorithms;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|e| self.ca_fault(e))?;
        verifier
            .verify_client_cert(&chain[0], &chain[1..], while_valid(expires_unix_s))
            .map_err(|e| self.certificate_fault(format!("not of a CA in rpc.ca_file: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| self.key_fault(e))?;
        let server = server(&provider, verifier, chain.clone(), key.clone_key())
            .map_err(|e| self.key_fault(e))?;
        let servers = OfCluster::new(roots, algorithms);
        let client = client(&provider, servers, chain, key).map_err(|e| self.key_fault(e))?;
        Ok(Material {
            print: print.finalize(),
            identity,
            expires_unix_s,
            ca_expires_unix_s,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, std::io::Error> {
    use std::io::Read;
    let mut content = Vec::new();
    let most = limits::MAX_TLS_FILE_BYTES;
    std::fs::File::open(path)?
        .take(most + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(std::io::Error::other(format!("more than {most} bytes")));
    }
    Ok(content)
}

/// At least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn parsed<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, String> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|error| format!("not a certificate: {error}"))?;
    Ok(parsed)
}

/// Whom a certificate names. That it is of the cluster's CA is for others to check.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, String> {
    let uris = describe(certificate)?.uris;
    Identity::from_uris(uris.iter().map(String::as_str)).map_err(|fault| fault.to_string())
}

/// Now, or the last second of a certificate that has expired.
fn while_valid(expires_unix_s: i64) -> UnixTime {
    let now = UnixTime::now().as_secs();
    let last = u64::try_from(expires_unix_s).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(now.min(last)))
}

/// No session is resumed: that would let in who had a certificate once. Connections live long.
fn server(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(server)
}

fn client(
    provider: &Arc<CryptoProvider>,
    servers: OfCluster,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous() // The name is not checked here but by the connector: see `verify`.
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_auth_cert(chain, key)?;
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_sni = false;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(client)
}
