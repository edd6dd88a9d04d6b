//! What it takes to reach a source. Kept in memory, shown to nobody.

use proto::control::v1::SourceAccess;
use std::fmt;

/// Credentials and connection of one source.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// For `Authorization: Bearer`.
    pub bearer_token: Option<String>,
    /// User name and password, for basic authentication.
    pub basic: Option<(String, String)>,
    /// Authorities to trust beside the system's, PEM.
    pub ca_bundle_pem: Option<String>,
    /// The proxy for this source alone.
    pub proxy_url: Option<String>,
}

impl From<SourceAccess> for Access {
    fn from(told: SourceAccess) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self {
            bearer_token: some(told.bearer_token),
            basic: some(told.username).map(|name| (name, told.password)),
            ca_bundle_pem: some(told.ca_bundle_pem),
            proxy_url: some(told.proxy_url),
        }
    }
}

/// Says what there is, and nothing of what it is.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("bearer_token", &self.bearer_token.is_some())
            .field("basic", &self.basic.is_some())
            .field("ca_bundle_pem", &self.ca_bundle_pem.is_some())
            .field("proxy_url", &self.proxy_url.is_some())
            .finish()
    }
}
