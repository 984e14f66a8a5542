//! What proves who this process is, kept up to date with its files: whoever puts newer ones in their
//! place has them used for every connection made from then on, a little later. What is connected stays, until the
//! certificates that it was made with expire.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};

use super::identity::Party;
use super::lifetime::Removed;
use super::material::{Material, TlsFault, TlsFiles};
use crate::limits;

/// The certificates in use.
pub struct Credentials {
    files: TlsFiles,
    me: Party,
    material: ArcSwap<Material>,
    removed: Removed,
}

/// When certificates expire. Negative: they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds until this process's own certificate does.
    pub certificate_s: i64,
    /// Seconds until the first of its CAs' certificates does.
    pub ca_s: i64,
}

/// How near an expiry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Far,
    Soon,
    Past,
}

impl Nearness {
    fn of(left_s: i64) -> Self {
        let soon = i64::try_from(limits::CERTIFICATE_WARNING.as_secs()).unwrap_or(i64::MAX);
        match left_s {
            ..=0 => Nearness::Past,
            left if left < soon => Nearness::Soon,
            _ => Nearness::Far,
        }
    }
}

impl Expiry {
    /// A sentence for each that a person should look at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let of = |what: &str, left_s: i64| match Nearness::of(left_s) {
            Nearness::Far => None,
            Nearness::Soon => Some(format!("{what} expires in {} hours", left_s / 3600)),
            Nearness::Past => Some(format!(
                "{what} has expired: no new connection is made with it"
            )),
        };
        let own = of("this process's rpc certificate", self.certificate_s);
        own.into_iter()
            .chain(of("a certificate of rpc.ca_file", self.ca_s))
            .collect()
    }

    fn nearness(&self) -> (Nearness, Nearness) {
        (Nearness::of(self.certificate_s), Nearness::of(self.ca_s))
    }
}

impl Credentials {
    /// Reads the files; the certificate must name `me`.
    ///
    /// # Errors
    /// [`TlsFault`] with the file.
    pub fn load(files: TlsFiles, me: Party) -> Result<Self, TlsFault> {
        let material = read(&files, &me)?;
        Ok(Self {
            files,
            me,
            material: ArcSwap::from_pointee(material),
            removed: Removed::default(),
        })
    }

    pub(super) fn material(&self) -> Guard<Arc<Material>> {
        self.material.load()
    }

    /// Nodes that were removed from the cluster, as far as this process was told.
    pub(super) fn removed(&self) -> &Removed {
        &self.removed
    }

    /// When the certificates in use expire.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = since.map_or(0, |since| since.as_secs() as i64);
        let material = self.material.load();
        Expiry {
            certificate_s: material.expires_unix_s.saturating_sub(now_s),
            ca_s: material.ca_expires_unix_s.saturating_sub(now_s),
        }
    }

    /// Looks at the files until it is dropped. A disk that never answers leaves what is in use in use.
    pub(super) async fn watch(&self) {
        let mut told = (Nearness::Far, Nearness::Far);
        let mut last_fault = None;
        let mut told_fault = None;
        loop {
            let near = self.expiry().nearness();
            if near != told {
                for warning in self.expiry().warnings() {
                    tracing::warn!("{warning}; `maiactl cert` makes another");
                }
                told = near;
            }
            tokio::time::sleep(limits::TLS_FILES_POLL).await;
            let (files, me) = (self.files.clone(), self.me.clone());
            let read = tokio::task::spawn_blocking(move || read(&files, &me)).await;
            let fault = match read {
                Ok(Ok(material)) => self.take(material).err(),
                Ok(Err(fault)) => Some(fault),
                Err(_) => return, // the process ends
            };
            // Files are replaced one after the other: only what stays wrong is wrong.
            if fault.is_some() && fault == last_fault && fault != told_fault {
                let fault = fault.as_ref().map(ToString::to_string);
                tracing::error!(
                    fault,
                    "newer rpc certificates can't be used; the old ones are"
                );
                told_fault.clone_from(&last_fault);
            }
            if fault.is_none() {
                told_fault = None;
            }
            last_fault = fault;
        }
    }

    /// One look at the files. Blocks.
    #[cfg(test)]
    pub(super) fn reread(&self) -> Result<(), TlsFault> {
        self.take(read(&self.files, &self.me)?)
    }

    fn take(&self, material: Material) -> Result<(), TlsFault> {
        let before = self.material.load();
        if material.print == before.print {
            return Ok(());
        }
        let cluster = before.identity.cluster();
        if material.identity.cluster() != cluster {
            let reason = format!("of another cluster than {cluster}");
            return Err(self.files.certificate_fault(reason));
        }
        self.material.store(Arc::new(material));
        let Expiry { certificate_s, .. } = self.expiry();
        tracing::info!(certificate_s, "newer rpc certificates are in use");
        Ok(())
    }
}

fn read(files: &TlsFiles, me: &Party) -> Result<Material, TlsFault> {
    let material = files.read()?;
    if !material.identity.names(me) {
        let reason = format!("is for {}, not for {me}", material.identity);
        return Err(files.certificate_fault(reason));
    }
    Ok(material)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_told_ahead() {
        let day_s = 24 * 3600;
        let at = |certificate_s, ca_s| Expiry {
            certificate_s,
            ca_s,
        };
        assert!(at(400 * day_s, 400 * day_s).warnings().is_empty());
        let soon = at(5 * day_s, 400 * day_s).warnings();
        assert!(soon.len() == 1 && soon[0].contains("120 hours"), "{soon:?}");
        let past = at(400 * day_s, -1).warnings();
        assert!(past.len() == 1 && past[0].contains("ca_file has expired"));
    }
}
