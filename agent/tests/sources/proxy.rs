//! Sources behind a forward proxy.

use agent::source::SourceError;
use origin::{Asked, Proxy};
use proto::control::v1::SourceAccess;

use super::{Bench, PATH, content};

/// `name:word`.
const DEMANDED: &str = "Basic bmFtZTp3b3Jk";

impl Bench {
    /// Of a model that names this proxy.
    fn read_through(&self, proxy_url: String) -> Result<Vec<u8>, SourceError> {
        let told = SourceAccess {
            proxy_url,
            ..self.told()
        };
        self.read(&self.server.url(PATH), told)
    }

    fn tunnel(&self, authorization: Option<&str>) -> Asked {
        Asked {
            line: format!("CONNECT {} HTTP/1.1", self.server.host()),
            authorization: authorization.map(str::to_owned),
        }
    }
}

fn url(proxy: &Proxy, user: &str) -> String {
    format!("http://{user}{}", proxy.address)
}

#[test]
fn a_source_is_read_through_the_proxy_that_its_model_names_which_sees_where_to_and_no_more() {
    let (bench, proxy) = (Bench::new(), Proxy::start(None).unwrap());
    let bytes = bench.read_through(url(&proxy, "")).unwrap();
    assert_eq!(bytes, content()[100_000..200_000]);
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| *asked == bench.tunnel(None)), "{asked:?}");
}

#[test]
fn a_proxy_is_told_the_name_and_the_word_that_its_address_holds() {
    let (bench, proxy) = (Bench::new(), Proxy::start(Some(DEMANDED)).unwrap());
    let bytes = bench.read_through(url(&proxy, "name:word@")).unwrap();
    assert_eq!(bytes, content()[100_000..200_000]);
    assert_eq!(proxy.asked().first(), Some(&bench.tunnel(Some(DEMANDED))));
}

#[test]
fn a_proxy_that_refuses_is_an_error_that_says_so_and_holds_no_secret() {
    let (bench, proxy) = (Bench::new(), Proxy::start(Some(DEMANDED)).unwrap());
    let error = bench.read_through(url(&proxy, "name:hush@")).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.reason(), "SourceUnavailable", "{message}");
    assert!(message.contains("proxy"), "{message}");
    assert!(!message.contains("hush"), "{message}");
    assert!(bench.server.seen().is_empty(), "not around the proxy");
}

#[test]
fn a_proxy_that_is_not_there_is_not_gone_around() {
    let bench = Bench::new();
    let error = bench.read_through("http://127.0.0.1:1".to_owned()).unwrap_err();
    assert_eq!(error.reason(), "SourceUnavailable", "{error}");
    assert!(bench.server.seen().is_empty(), "not around the proxy");
}

#[test]
fn the_nodes_proxy_is_taken_but_for_the_hosts_that_are_excepted_and_a_models_own_goes_first() {
    let (mut bench, nodes, own) = (Bench::new(), Proxy::start(None).unwrap(), Proxy::start(None).unwrap());
    bench.setting.https_proxy = Some(url(&nodes, ""));
    bench.read_through(String::new()).unwrap();
    let through_the_nodes = nodes.asked().len();
    assert!(through_the_nodes > 0);
    bench.read_through(url(&own, "")).unwrap();
    assert_eq!(nodes.asked().len(), through_the_nodes);
    assert!(!own.asked().is_empty());
    bench.setting.no_proxy = Some("localhost,10.0.0.0/8".to_owned());
    bench.read_through(String::new()).unwrap();
    assert_eq!(nodes.asked().len(), through_the_nodes);
}
