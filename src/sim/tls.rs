//! A provider behind a certificate that nobody should trust.
//!
//! The certificate is made at the start, signed with its own key, for `localhost` and 127.0.0.1. A client that checks leaves
//! during the handshake: outcome `tls_refused`, and nothing was said. With one that doesn't, the outcome is `tls_accepted`
//! and what it sent first is kept among the requests. Nothing is ever answered.

use super::dice::roll;
use super::state::Shared;
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use rustls::{ServerConfig, SignatureScheme};
use serde::{Deserialize, Serialize};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The TLS that a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    SelfSigned,
}

mod tag {
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const UTC_TIME: u8 = 0x17;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
    pub const DNS_NAME: u8 = 0x82;
    pub const IP_ADDRESS: u8 = 0x87;
    pub const VERSION: u8 = 0xa0;
    pub const EXTENSIONS: u8 = 0xa3;
}

/// An element of DER: tag, length, content.
#[allow(clippy::cast_possible_truncation, reason = "a certificate of these parts has some 300 bytes")]
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// An Ed25519 key in PKCS #8. It guards nothing: the seed may be known.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a roll is in 0..1")]
fn key(seed: u64) -> PrivatePkcs8KeyDer<'static> {
    let secret: Vec<u8> = (0..32).map(|i| (roll(seed, i, 0) * 256.0) as u8).collect();
    let secret = der(tag::OCTET_STRING, &[&der(tag::OCTET_STRING, &[&secret])]);
    der(tag::SEQUENCE, &[&der(tag::INTEGER, &[&[0]]), &ed25519(), &secret]).into()
}

fn ed25519() -> Vec<u8> {
    der(tag::SEQUENCE, &[&der(tag::OID, &[&[0x2b, 0x65, 0x70]])])
}

/// The certificate for a key, signed by it.
fn certificate(key: &dyn SigningKey) -> Result<CertificateDer<'static>, rustls::Error> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    let unfit = || rustls::Error::General("the key cannot sign".to_owned());
    let name = der(tag::SEQUENCE, &[&der(tag::OID, &[COMMON_NAME]), &der(tag::UTF8_STRING, &[b"breakwater sim"])]);
    let name = der(tag::SEQUENCE, &[&der(tag::SET, &[&name])]);
    let time = |text: &[u8]| der(tag::UTC_TIME, &[text]);
    let names = der(tag::SEQUENCE, &[&der(tag::DNS_NAME, &[b"localhost"]), &der(tag::IP_ADDRESS, &[&[127, 0, 0, 1]])]);
    let alt_name = der(tag::SEQUENCE, &[&der(tag::OID, &[SUBJECT_ALT_NAME]), &der(tag::OCTET_STRING, &[&names])]);
    let to_be_signed = der(
        tag::SEQUENCE,
        &[
            &der(tag::VERSION, &[&der(tag::INTEGER, &[&[2]])]),
            &der(tag::INTEGER, &[&[1]]),
            &ed25519(),
            &name,
            &der(tag::SEQUENCE, &[&time(b"200101000000Z"), &time(b"491231235959Z")]),
            &name,
            &key.public_key().ok_or_else(unfit)?,
            &der(tag::EXTENSIONS, &[&der(tag::SEQUENCE, &[&alt_name])]),
        ],
    );
    let signer = key.choose_scheme(&[SignatureScheme::ED25519]).ok_or_else(unfit)?;
    let signature = der(tag::BIT_STRING, &[&[0], &signer.sign(&to_be_signed)?]);
    Ok(der(tag::SEQUENCE, &[&to_be_signed, &ed25519(), &signature]).into())
}

/// What answers handshakes with the self-signed certificate.
///
/// # Errors
/// The TLS library refuses the certificate or its key.
pub(super) fn self_signed(seed: u64) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(key(seed));
    let certificate = certificate(&*provider.key_provider.load_private_key(key.clone_key())?)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves one connection to its end.
pub(super) async fn connection(socket: TcpStream, shared: Arc<Shared>, acceptor: TlsAcceptor) {
    let _opened = shared.accepted();
    let mut ticket = shared.begin("tls");
    ticket.outcome = "tls_refused";
    // A client that refuses may do so after the server's last message: it is the first read that tells.
    let Ok(mut stream) = acceptor.accept(socket).await else { return };
    let mut space = [0; 4096];
    let mut read = ReadBuf::new(&mut space);
    let got = poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut read)).await;
    if got.is_ok() && !read.filled().is_empty() {
        ticket.outcome = "tls_accepted";
        shared.keep(&shared.profile(), ticket.n, &Bytes::copy_from_slice(read.filled()), &Bytes::new());
    }
}
