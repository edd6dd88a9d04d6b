use super::*;
use crate::fixture::{self, Script};

const FLAGS: [&str; 3] = ["--enrol-listen", "--control-listen", "--admin-listen"];

#[tokio::test]
async fn a_port_that_is_taken_is_named_by_its_flag_and_its_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (client, _script) = Script::client([]);
    let context = fixture::context(client);
    let identity = authority::own_identity(&context.keys, &context.names, context.wall.now()).unwrap();
    let credentials = Credentials::new(identity).unwrap();
    let stop = CancellationToken::new();
    for flag in FLAGS {
        let listens = |other: &str| if other == flag { address.as_str() } else { "127.0.0.1:0" };
        let arguments = FLAGS.map(|other| [other, listens(other)]).concat();
        let settings = Settings::of(&arguments).unwrap();
        let (_leading, leadership) = watch::channel(false);
        let replica = Replica::new(context.clone(), settings.reservation.clone(), leadership, stop.clone());
        let refused = serve(&replica, &settings, &credentials, &stop).await;
        let error = refused.err().unwrap();
        assert!(matches!(error, StartError::Listen { .. }), "{error}");
        let told = format!("{flag}: cannot listen on {address}: Address already in use");
        assert!(error.to_string().starts_with(&told), "{error}");
    }
}
