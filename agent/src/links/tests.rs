use super::*;
use proto::control::v1::LinkPeer;

fn peer(node: &str, endpoint: &str) -> LinkPeer {
    LinkPeer {
        node: node.into(),
        endpoint: endpoint.into(),
        neighbour: node == "a",
    }
}

fn named(endpoint: &str, is_neighbour: bool) -> Named {
    Named {
        endpoint: endpoint.into(),
        is_neighbour,
    }
}

#[test]
fn of_what_the_operator_sends_only_what_can_be_is_taken_and_never_more_than_there_is_room_for() {
    let sent = vec![
        peer("a", "10.0.0.1:9445"),
        peer("e", "10.0.0.5:9445"),
        peer("own", "10.0.0.2:9445"),
        peer("", "10.0.0.3:9445"),
        peer("b", ""),
        peer("c", &"x".repeat(300)),
        peer(&"d".repeat(300), "10.0.0.4:9445"),
    ];
    let taken = peers("own", LinkPeers { peers: sent });
    let expected = [
        ("a".into(), named("10.0.0.1:9445", true)),
        ("e".into(), named("10.0.0.5:9445", false)),
    ];
    assert_eq!(taken, Peers::from(expected));
    let many = (0..1000).map(|number| peer(&format!("n{number}"), "h:1")).collect();
    assert_eq!(peers("own", LinkPeers { peers: many }).len(), PEERS_MAX);
}
