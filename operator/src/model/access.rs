//! PURE: from a Secret that a model names to what an agent must know to read the source.

use std::fmt;

use crds::conditions::reason;
use k8s_openapi::api::core::v1::Secret;
use proto::control::v1::SourceAccess;

use super::status::Why;

/// Key of a bearer token.
const TOKEN: &str = "token";
/// Keys of basic authentication.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
/// Key of authorities to trust.
const CA: &str = "ca.crt";

/// The longest token, user name or password: header lines of HTTP end at 8 to 16 KiB.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// The largest bundle: all of the web's authorities take a quarter of a mebibyte.
const CA_BYTES_MAX: usize = 512 * 1024;
/// Made by Kubernetes for service accounts: their tokens are for the API server and no source may be told them.
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// How to reach a source; shows nothing of itself.
#[derive(Clone, Default, PartialEq)]
pub struct Access(SourceAccess);

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Access(..)")
    }
}

impl Access {
    /// What a Secret holds. `namespace` and `name` are for the message.
    pub fn of_secret(namespace: &str, name: &str, secret: &Secret) -> Result<Self, Why> {
        let bad = |what: String| invalid(namespace, name, &what);
        if secret.type_.as_deref() == Some(SERVICE_ACCOUNT_TOKEN) {
            return Err(bad(format!(
                "it is of type {SERVICE_ACCOUNT_TOKEN}, which is not sent to any source; use one of type Opaque"
            )));
        }
        let text = |key: &str, longest: usize| -> Result<String, Why> {
            let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else {
                return Ok(String::new());
            };
            let text = std::str::from_utf8(&bytes.0).map_err(|_| bad(format!("key {key} is not text")))?;
            let text = text.trim();
            if text.is_empty() || text.len() > longest {
                let length = text.len();
                return Err(bad(format!(
                    "key {key} has {length} bytes; it must have 1 to {longest}"
                )));
            }
            Ok(text.to_owned())
        };
        let credential = |key: &str| {
            let text = text(key, CREDENTIAL_BYTES_MAX)?;
            match text.chars().any(char::is_control) {
                true => Err(bad(format!("key {key} has a control character or a line break inside"))),
                false => Ok(text),
            }
        };
        let access = SourceAccess {
            bearer_token: credential(TOKEN)?,
            username: credential(USERNAME)?,
            password: credential(PASSWORD)?,
            ca_bundle_pem: text(CA, CA_BYTES_MAX)?,
            proxy_url: String::new(),
        };
        let basic = (!access.username.is_empty(), !access.password.is_empty());
        if access == SourceAccess::default() {
            return Err(bad(format!(
                "it has none of the keys {TOKEN}, {USERNAME} with {PASSWORD}, {CA}"
            )));
        }
        if basic.0 != basic.1 {
            return Err(bad(format!(
                "{USERNAME} and {PASSWORD} belong together: one is missing"
            )));
        }
        if basic.0 && !access.bearer_token.is_empty() {
            return Err(bad(format!(
                "it has both {TOKEN} and {USERNAME} with {PASSWORD}; keep one of them"
            )));
        }
        if !access.ca_bundle_pem.is_empty() && !access.ca_bundle_pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(bad(format!("key {CA} holds no certificate in PEM")));
        }
        Ok(Self(access))
    }

    /// The same by this proxy.
    #[must_use]
    pub fn by_proxy(mut self, proxy_url: Option<&str>) -> Self {
        self.0.proxy_url = proxy_url.unwrap_or_default().to_owned();
        self
    }

    /// As the protocol carries it; `None` where the address alone is enough.
    #[must_use]
    pub fn to_message(&self) -> Option<SourceAccess> {
        (self.0 != SourceAccess::default()).then(|| self.0.clone())
    }
}

fn invalid(namespace: &str, name: &str, what: &str) -> Why {
    Why::new(
        reason::SECRET_INVALID,
        format!("Secret {namespace}/{name}, named by spec.source.secretRef: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries
            .iter()
            .map(|(key, value)| (key.to_string(), ByteString(value.as_bytes().to_vec())));
        Secret {
            data: Some(data.collect::<BTreeMap<_, _>>()),
            ..Default::default()
        }
    }

    fn read(entries: &[(&str, &str)]) -> Result<Access, Why> {
        Access::of_secret("default", "access", &secret(entries))
    }

    #[test]
    fn a_token_or_a_user_with_a_password_beside_an_authority_is_access() {
        let access = read(&[("token", "abc\n"), ("ca.crt", PEM)]).unwrap();
        let message = access.by_proxy(Some("http://proxy:1")).to_message().unwrap();
        assert_eq!(
            (message.bearer_token.as_str(), message.proxy_url.as_str()),
            ("abc", "http://proxy:1")
        );
        assert!(message.ca_bundle_pem.starts_with("-----BEGIN CERTIFICATE-----"));
        let basic = read(&[("username", "me"), ("password", "it")])
            .unwrap()
            .to_message()
            .unwrap();
        assert_eq!((basic.username.as_str(), basic.password.as_str()), ("me", "it"));
        assert_eq!(Access::default().to_message(), None);
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_named_with_object_and_key_and_never_with_its_value() {
        let long = "x".repeat(CREDENTIAL_BYTES_MAX + 1);
        for (entries, part) in [
            (&[("other", "hidden")][..], "none of the keys token"),
            (&[("username", "hidden")][..], "one is missing"),
            (
                &[("token", "hidden"), ("username", "hidden"), ("password", "hidden")][..],
                "both token and username",
            ),
            (&[("token", "hidden\nhidden")][..], "key token has a control character"),
            (&[("token", "")][..], "key token has 0 bytes"),
            (&[("token", long.as_str())][..], "key token has 8193 bytes"),
            (&[("ca.crt", "hidden")][..], "key ca.crt holds no certificate"),
        ] {
            let why = read(entries).unwrap_err();
            assert_eq!(why.reason, "SecretInvalid");
            assert!(
                why.message
                    .starts_with("Secret default/access, named by spec.source.secretRef")
            );
            assert!(why.message.contains(part), "{}", why.message);
            assert!(!why.message.contains("hidden"), "{}", why.message);
        }
    }

    #[test]
    fn a_service_accounts_token_is_sent_to_nobody() {
        let mut secret = secret(&[("token", "hidden")]);
        secret.type_ = Some(SERVICE_ACCOUNT_TOKEN.into());
        let why = Access::of_secret("default", "access", &secret).unwrap_err();
        assert!(why.message.contains("not sent to any source"), "{}", why.message);
    }

    #[test]
    fn access_shows_nothing_of_itself() {
        let access = read(&[("token", "hidden")]).unwrap();
        assert_eq!(format!("{access:?}"), "Access(..)");
    }
}
