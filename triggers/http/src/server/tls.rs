//! TLS for the public listener: the certificate and its key, read again when their files change.
//!
//! rustls with ring does the work, TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN. A pair that cannot be used never takes
//! the place of one that can: a reload says what is wrong, and the connections go on with what was read before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The largest file that is read: a chain has a few kilobytes, the roots of a system a few hundred.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What a caller that speaks TLS may speak inside.
pub(super) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Where the listener's certificate is. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and, behind it, those that lead from it to a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities by whom every caller must have a certificate; none asks for none.
    pub client_ca: Option<PathBuf>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, is not to be read by the engine, or is far too large.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} has no {what} in PEM that can be read; write -----BEGIN {label}-----, its base64, and the end", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What such a section begins with.
        label: &'static str,
    },
    /// What the files hold cannot be used, or not together.
    #[error("{} with the key {} cannot be used for TLS", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authorities for callers cannot be used.
    #[error("the authorities in {} cannot be used: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificates {
    files: TlsFiles,
    /// What was read last. Locked while files are compared, never across an await.
    read: Mutex<Pem>,
    config: ArcSwap<ServerConfig>,
}

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem")
    }
}

impl Certificates {
    /// Reads the files.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let read = Pem::read(&files)?;
        let config = read.config(&files)?;
        Ok(Self { files, read: Mutex::new(read), config: ArcSwap::from_pointee(config) })
    }

    /// What a new connection is to use.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the files again. From then on new connections use what they hold, if that has changed (`true`) and can be
    /// used; otherwise nothing changes.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let pem = Pem::read(&self.files)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if pem == *read {
            return Ok(false);
        }
        self.config.store(Arc::new(pem.config(&self.files)?));
        *read = pem;
        Ok(true)
    }

    /// Reads the files again and logs what came of it.
    pub async fn renew(self: &Arc<Self>) {
        let certificates = self.clone();
        let cert = self.files.cert.display();
        match tokio::task::spawn_blocking(move || certificates.reload()).await {
            Ok(Ok(true)) => tracing::info!(%cert, "new connections use the new certificate"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the certificate was not taken in: the one before stays"
                );
            }
            Err(error) => tracing::error!(%error, "reading the certificate did not end as it should"),
        }
    }

    /// Does so whenever it is time. Never ends.
    pub(super) async fn keep_fresh(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.renew().await;
        }
    }
}

impl Pem {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, client_ca })
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&self.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::Missing {
            path: files.key.clone(),
            what: "private key",
            label: "PRIVATE KEY",
        })?;
        let unusable = |source| TlsError::Unusable { cert: files.cert.clone(), key: files.key.clone(), source };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let refused = |why: String| TlsError::Authorities { path: path.clone(), why };
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, path)? {
                    roots.add(authority).map_err(|error| refused(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| refused(error.to_string()))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(unreadable)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        _ => Err(TlsError::Missing { path: path.to_owned(), what: "certificate", label: "CERTIFICATE" }),
    }
}
