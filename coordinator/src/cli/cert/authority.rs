//! A cluster's CA: a folder with `ca.pem` (certificates, the newest first) and `ca.key` (the newest's
//! key). Every file appears whole or not at all; keys are readable by their owner alone.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use maia_common::ids::ClusterName;
use maia_common::rpc::{Described, Party, inspect};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// A CA lives as long as a cluster, about.
pub const CA_DAYS: u32 = 3650;
/// Long enough to be no burden, short enough that the way to replace one stays known.
pub const DAYS: u32 = 365;
const DAY_S: i64 = 86_400;
/// For machines whose clock is behind this one's.
const HEADSTART_S: i64 = 3600;

/// A CA that can issue.
pub struct Authority {
    cluster: ClusterName,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a new certificate is.
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes the CA of a new cluster.
    ///
    /// # Errors
    /// When there is one already; I/O.
    pub fn create(folder: &Path, cluster: &ClusterName, days: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for name in ["ca.pem", "ca.key"] {
            let there = folder.join(name);
            anyhow::ensure!(!there.exists(), "{} is there already", there.display());
        }
        Self::make(folder, cluster, days, "")
    }

    /// Makes another CA; `ca.pem` keeps the one that was the newest.
    ///
    /// # Errors
    /// When there is none, or two already: a third would push out the one in use; I/O.
    pub fn next(folder: &Path, days: u32) -> anyhow::Result<Self> {
        let (cluster, _, pem) = newest(folder)?;
        let all = std::fs::read_to_string(folder.join("ca.pem"))?;
        anyhow::ensure!(
            all.trim() == pem.trim(),
            "ca.pem has two CAs already: first give it to every process and make new certificates, then \
             `cert ca --drop-old`"
        );
        Self::make(folder, &cluster, days, &pem)
    }

    /// Leaves the newest CA alone in `ca.pem`.
    ///
    /// # Errors
    /// When there is none; I/O.
    pub fn drop_old(folder: &Path) -> anyhow::Result<()> {
        let (_, _, pem) = newest(folder)?;
        write(&folder.join("ca.pem"), &pem, 0o644)
    }

    fn make(folder: &Path, cluster: &ClusterName, days: u32, old: &str) -> anyhow::Result<Self> {
        let name = format!("maia-edge CA {:08x}", fastrand::u32(..));
        let mut params = params(cluster, &name);
        validity(&mut params, days)?;
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        // A cut between the two leaves a key that is not the certificate's, which `open` finds.
        write(&folder.join("ca.key"), &key.serialize_pem(), 0o600)?;
        write(&folder.join("ca.pem"), &format!("{pem}{old}"), 0o644)?;
        Ok(Self {
            cluster: cluster.clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA of a folder.
    ///
    /// # Errors
    /// When there is none, or its files don't fit each other.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let (cluster, described, _) = newest(folder)?;
        let path = folder.join("ca.key");
        let place = || path.display().to_string();
        let key = std::fs::read_to_string(&path).with_context(place)?;
        let key = KeyPair::from_pem(&key).with_context(place)?;
        anyhow::ensure!(
            key.public_key_raw() == described.public_key,
            "{} is not the key of the first certificate in ca.pem: `cert ca --next` makes both anew",
            path.display()
        );
        Ok(Self {
            issuer: Issuer::new(params(&cluster, &described.common_name), key),
            cluster,
        })
    }

    /// Writes a certificate for one node, or for one or several proxies, and its key.
    ///
    /// # Errors
    /// I/O.
    pub fn issue(&self, parties: &[Party], out: &Path, days: u32) -> anyhow::Result<Issued> {
        let first = parties.first().context("a certificate names somebody")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&self.cluster, &first.to_string());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(first, Party::Node(_)) {
            let server = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(server);
        }
        for party in parties {
            let uri = party.uri(&self.cluster).as_str().try_into()?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        validity(&mut params, days)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let name = match first {
            Party::Node(id) => format!("node-{id}"),
            Party::Proxy(id) => format!("proxy-{id}"),
        };
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let issued = Issued {
            certificate: out.join(format!("{name}.pem")),
            key: out.join(format!("{name}.key")),
        };
        // A process that looks between the two looks again.
        write(&issued.key, &key.serialize_pem(), 0o600)?;
        write(&issued.certificate, &certificate, 0o644)?;
        Ok(issued)
    }
}

/// The first certificate of `ca.pem`: its cluster, what it says, and its PEM.
fn newest(folder: &Path) -> anyhow::Result<(ClusterName, Described, String)> {
    const END: &str = "-----END CERTIFICATE-----";
    let path = folder.join("ca.pem");
    let place = || path.display().to_string();
    let pem = std::fs::read_to_string(&path).with_context(place)?;
    let found = inspect(pem.as_bytes()).map_err(anyhow::Error::msg);
    let first = found.with_context(place)?.swap_remove(0);
    let cluster = ClusterName::new(first.organization.as_str()).with_context(place)?;
    let end = pem.find(END).map_or(pem.len(), |at| at + END.len());
    Ok((cluster, first, format!("{}\n", &pem[..end])))
}

fn name(cluster: &ClusterName, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster.as_str());
    name.push(DnType::CommonName, common);
    name
}

/// What a CA is by its name alone: enough to issue under it, with its key.
fn params(cluster: &ClusterName, common: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(cluster, common);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn validity(params: &mut CertificateParams, days: u32) -> anyhow::Result<()> {
    let now_s = now_unix_s();
    params.not_before = OffsetDateTime::from_unix_timestamp(now_s - HEADSTART_S)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now_s + i64::from(days) * DAY_S)?;
    Ok(())
}

pub(super) fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    // Readable by the owner alone from its first byte on.
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
    file.write_all(text.as_bytes()).with_context(place)?;
    let permissions = Permissions::from_mode(mode);
    file.as_file()
        .set_permissions(permissions)
        .with_context(place)?;
    file.as_file().sync_all().with_context(place)?;
    file.persist(path).with_context(place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use maia_common::ids::{NodeId, ProxyId};
    use maia_common::rpc::{Credentials, TlsFiles};

    use super::*;

    fn files(folder: &Path, issued: &Issued) -> TlsFiles {
        TlsFiles {
            ca: folder.join("ca.pem"),
            certificate: issued.certificate.clone(),
            key: issued.key.clone(),
        }
    }

    #[test]
    fn what_is_issued_can_be_used_by_whom_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterName::new("c").unwrap();
        Authority::create(dir.path(), &cluster, 10).unwrap();
        assert!(
            Authority::create(dir.path(), &cluster, 10).is_err(),
            "twice"
        );
        let node = Party::Node(NodeId::new(1));
        let authority = Authority::open(dir.path()).unwrap();
        let issued = authority
            .issue(std::slice::from_ref(&node), dir.path(), 5)
            .unwrap();
        let credentials = Credentials::load(files(dir.path(), &issued), node).unwrap();
        let left_s = credentials.expiry().certificate_s;
        assert!((5 * DAY_S - 60..=5 * DAY_S).contains(&left_s), "{left_s}");
        let other = Party::Node(NodeId::new(2));
        let fault = Credentials::load(files(dir.path(), &issued), other);
        let fault = fault.err().unwrap().to_string();
        assert!(fault.contains("is for node 1, not for node 2"), "{fault}");
        for name in ["ca.key", "node-1.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_ca_is_replaced_in_three_steps() {
        let dir = tempfile::tempdir().unwrap();
        let proxy = |id: &str| Party::Proxy(ProxyId::new(id).unwrap());
        let both = [proxy("a"), proxy("b")];
        let cluster = ClusterName::new("c").unwrap();
        let first = Authority::create(dir.path(), &cluster, 10).unwrap();
        let issued = first.issue(&both, dir.path(), 5).unwrap();
        let usable = || Credentials::load(files(dir.path(), &issued), proxy("b"));
        usable().unwrap();
        Authority::next(dir.path(), 10).unwrap();
        usable().unwrap();
        let second = Authority::open(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        assert_eq!(inspect(text.as_bytes()).unwrap().len(), 2);
        Authority::drop_old(dir.path()).unwrap();
        assert!(usable().is_err(), "of the old CA");
        second.issue(&both, dir.path(), 5).unwrap();
        usable().unwrap();
    }

    #[test]
    fn a_key_that_is_not_the_cas_issues_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterName::new("c").unwrap();
        Authority::create(dir.path(), &cluster, 10).unwrap();
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(dir.path().join("ca.key"), other).unwrap();
        let error = Authority::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("not the key"), "{error}");
        Authority::next(dir.path(), 10).unwrap();
        Authority::open(dir.path()).unwrap();
    }
}
