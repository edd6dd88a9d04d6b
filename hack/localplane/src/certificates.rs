//! The key material of the local API server: an authority, a serving certificate, and the key that signs tokens.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::{Result, file};

/// PEM files in the plane's directory.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub authority: PathBuf,
    pub server: PathBuf,
    pub server_key: PathBuf,
    pub token_key: PathBuf,
    pub token_public_key: PathBuf,
}

impl Certificates {
    /// Writes fresh material for a server on 127.0.0.1 into `dir`.
    pub fn generate(dir: &Path) -> Result<Self> {
        let paths = Self {
            authority: dir.join("ca.crt"),
            server: dir.join("apiserver.crt"),
            server_key: dir.join("apiserver.key"),
            token_key: dir.join("tokens.key"),
            token_public_key: dir.join("tokens.pub"),
        };
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "local control plane");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let server_key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(String::from);
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let server_certificate = server.signed_by(&server_key, &issuer)?;

        let token_key = KeyPair::generate()?;
        write(&paths.authority, &authority_certificate.pem())?;
        write(&paths.server, &server_certificate.pem())?;
        write(&paths.server_key, &server_key.serialize_pem())?;
        write(&paths.token_key, &token_key.serialize_pem())?;
        write(&paths.token_public_key, &token_key.public_key_pem())?;
        Ok(paths)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(file(path))
}
