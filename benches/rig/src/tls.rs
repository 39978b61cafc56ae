//! A CA that lives for one benchmark, and both ends of the TLS that it vouches for.

use std::{error::Error, fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Writes `ca.pem`, `cert.pem` and `key.pem` for 127.0.0.1 and localhost into the folder.
///
/// # Errors
/// The folder cannot be written.
pub fn write_ca(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "Trunkline benchmark CA");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names)?;
    // OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let cert = params.signed_by(&key, &ca)?;
    fs::create_dir_all(dir)?;
    fs::write(dir.join("ca.pem"), ca.pem())?;
    fs::write(dir.join("cert.pem"), cert.pem())?;
    fs::write(dir.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

/// What the agents need, from the folder that [`write_ca`] wrote.
///
/// # Errors
/// The files are not there or not what they should be.
pub fn server(dir: &Path) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let cert = CertificateDer::from_pem_file(dir.join("cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem"))?;
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key)?))
}

/// What the bare relay needs: the CA's file.
///
/// # Errors
/// The file is not there or not what it should be.
pub fn client(ca: &Path) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
