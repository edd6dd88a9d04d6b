//! How a process gets its first identity: a pod-bound token in exchange for a leaf, over a server whose name is verified.

use std::path::PathBuf;
use std::time::Duration;

use proto::control::v1::enrolment_client::EnrolmentClient;
use proto::control::v1::{EnrolRequest, Role as EnrolRole};
use thiserror::Error;
use tonic::{Request, Status};

use crate::connect::{ConnectError, ConnectOptions, Expected, connect, split};
use crate::credentials::Credentials;
use crate::leaf::{Identity, KeyPair, LeafError};
use crate::sign::{PlacementVerifier, VerifyError};
use crate::spiffe::{Role, SpiffeId};
use crate::store::{self, StoreError};
use crate::tls::{TlsError, bootstrap_client_config};

/// A token review and two reads of the API server; it may be slow, but not this slow.
const ENROL_TIMEOUT: Duration = Duration::from_secs(15);
/// A projected token has some 1.5 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Where and as what to enrol.
#[derive(Debug, Clone)]
pub struct EnrolOptions {
    /// The operator's enrolment port, `host:port`; its certificate must carry that host.
    pub endpoint: String,
    /// The authorities to trust, PEM: from the mounted trust bundle.
    pub bundle_pem: String,
    /// File of the projected token; read anew at each call, as the kubelet replaces it.
    pub token_path: PathBuf,
    /// What to become.
    pub role: EnrolRole,
}

/// Why there is no identity. All but [`EnrolError::Refused`] may pass by themselves.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The token cannot be read.
    #[error("enrolment token: {0}")]
    Token(#[from] StoreError),
    /// The trust bundle cannot be used, or the leaf that came back cannot.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key cannot be made.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The operator cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The token does not stand, or may not have this role.
    #[error("enrolment is refused: {message}")]
    Refused {
        /// What the operator says.
        message: String,
    },
    /// The operator cannot answer now.
    #[error("enrolment failed: {code:?}: {message}")]
    Failed {
        /// The gRPC status.
        code: tonic::Code,
        /// What the operator says.
        message: String,
    },
    /// The answer has no leaf.
    #[error("the operator's answer has no leaf")]
    NoLeaf,
    /// The leaf is for something else.
    #[error("asked to be {role:?}, became {id}")]
    WrongRole {
        /// What was asked.
        role: EnrolRole,
        /// What came back.
        id: SpiffeId,
    },
    /// The placement keys cannot be used.
    #[error(transparent)]
    Keys(#[from] VerifyError),
}

impl From<Status> for EnrolError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied | tonic::Code::InvalidArgument => {
                Self::Refused { message }
            }
            code => Self::Failed { code, message },
        }
    }
}

/// A fresh key, its leaf, and the raw public keys that sign placements; all checked to be usable. One attempt, at most
/// about twenty seconds; whoever calls decides when to try again.
///
/// # Errors
/// See [`EnrolError`].
pub async fn enrol(options: EnrolOptions) -> Result<(Identity, Vec<Vec<u8>>), EnrolError> {
    let EnrolOptions {
        endpoint,
        bundle_pem,
        token_path,
        role,
    } = options;
    let config = bootstrap_client_config(&bundle_pem)?;
    let (host, _) = split(&endpoint)?;
    let token = store::read_text(&token_path, MAX_TOKEN_BYTES)?.trim().to_owned();
    let KeyPair { key_pem, csr_der } = KeyPair::generate()?;

    let channel = connect(&endpoint, config, Expected::Name(host), ConnectOptions::default()).await?;
    let mut request = Request::new(EnrolRequest {
        csr_der,
        service_account_token: token,
        role: role.into(),
    });
    request.set_timeout(ENROL_TIMEOUT);
    let answer = EnrolmentClient::new(channel).enrol(request).await?.into_inner();

    let leaf = answer.leaf.ok_or(EnrolError::NoLeaf)?;
    let identity = Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    };
    let id = Credentials::new(identity.clone())?.spiffe_id();
    let sound = match role {
        EnrolRole::Agent => matches!(id.role, Role::Agent { .. }),
        EnrolRole::Gateway => matches!(id.role, Role::Gateway { .. }),
        EnrolRole::Unspecified => false,
    };
    if !sound {
        return Err(EnrolError::WrongRole { role, id });
    }
    PlacementVerifier::new(&answer.placement_keys)?;
    Ok((identity, answer.placement_keys))
}
