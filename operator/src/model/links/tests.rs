use super::*;
use crate::model::fixture;
use serde_json::json;

fn member(node: &str, zone: &str) -> Member {
    Member {
        node: node.to_owned(),
        endpoint: format!("{node}:9445"),
        zone: zone.to_owned(),
    }
}

fn cluster(nodes: usize, zones: usize) -> Vec<Member> {
    (0..nodes)
        .map(|at| member(&format!("node-{at:04}"), &format!("zone-{}", at % zones)))
        .collect()
}

fn told(members: &[Member]) -> BTreeMap<String, Arc<LinkPeers>> {
    whom(members, &BTreeSet::new(), SEED)
}

fn names(peers: &LinkPeers) -> Vec<&str> {
    peers.peers.iter().map(|peer| peer.node.as_str()).collect()
}

#[test]
fn the_sample_grows_with_the_logarithm_and_is_everybody_in_a_small_cluster() {
    let sizes = [0, 1, 2, 3, 18, 19, 100, 1000, 10_000].map(sample_size);
    assert_eq!(sizes, [0, 0, 1, 2, 17, 17, 27, 40, 54]);
}

#[test]
fn in_a_small_cluster_every_agent_measures_to_every_other() {
    let members = cluster(5, 2);
    for (node, peers) in told(&members) {
        let expected: Vec<&str> = members
            .iter()
            .map(|m| m.node.as_str())
            .filter(|n| **n != node)
            .collect();
        assert_eq!(names(&peers), expected);
    }
    assert_eq!(told(&cluster(1, 1))["node-0000"].peers, [], "alone");
}

#[test]
fn in_a_large_cluster_each_has_so_many_peers_half_of_them_of_its_own_zone() {
    let members = cluster(1000, 4);
    let zones: BTreeMap<&str, &str> = members.iter().map(|m| (m.node.as_str(), m.zone.as_str())).collect();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for (node, peers) in told(&members) {
        assert_eq!(peers.peers.len(), sample_size(1000));
        let mut by_zone: BTreeMap<&str, usize> = BTreeMap::new();
        for peer in names(&peers) {
            assert_ne!(peer, node);
            *by_zone.entry(zones[peer]).or_default() += 1;
            *named.entry(peer.to_owned()).or_default() += 1;
        }
        assert_eq!(by_zone[zones[node.as_str()]], 20, "{node}: {by_zone:?}");
        assert!(by_zone.values().all(|count| *count >= 4), "{node}: {by_zone:?}");
    }
    let most = named.values().max().unwrap();
    assert!(*most < PEERS_MAX * 3, "one node is asked by {most} others");
}

#[test]
fn the_links_of_a_large_cluster_hang_together() {
    let told = told(&cluster(1000, 4));
    let mut reached = BTreeSet::from(["node-0000"]);
    let mut open = vec!["node-0000"];
    while let Some(node) = open.pop() {
        open.extend(names(&told[node]).into_iter().filter(|peer| reached.insert(peer)));
    }
    assert_eq!(reached.len(), 1000);
}

#[test]
fn a_zone_that_is_too_small_for_its_half_leaves_the_rest_to_the_others() {
    let mut members = cluster(200, 1);
    members.push(member("lonely", "edge"));
    assert_eq!(told(&members)["lonely"].peers.len(), sample_size(201));
    assert_eq!(told(&members)["node-0007"].peers.len(), sample_size(201));
}

#[test]
fn a_node_that_goes_changes_the_peers_of_a_few() {
    let members = cluster(500, 3);
    let before = told(&members);
    let mut fewer = members.clone();
    fewer.remove(250);
    let after = told(&fewer);
    let changed = |node: &&String| names(&before[*node]) != names(&after[*node]);
    let changed = after.keys().filter(changed).count();
    assert!(changed < 125, "{changed} of 499 have other peers");
    assert_eq!(told(&members), before, "the same members, the same peers");
}

#[test]
fn neighbours_in_a_placement_are_always_measured_from_both_ends() {
    let members = cluster(1000, 4);
    let alone = told(&members);
    let stranger = members
        .iter()
        .find(|m| !names(&alone["node-0000"]).contains(&m.node.as_str()) && m.node != "node-0000");
    let stranger = stranger.unwrap().node.clone();
    let neighbours = BTreeSet::from([
        ("node-0000".to_owned(), stranger.clone()),
        ("gone".to_owned(), stranger.clone()),
    ]);
    let told = whom(&members, &neighbours, SEED);
    assert!(names(&told["node-0000"]).contains(&stranger.as_str()));
    assert!(names(&told[&stranger]).contains(&"node-0000"));
    // And they are told which of their links these are.
    let near = |node: &str| -> Vec<String> {
        let peers = told[node].peers.iter().filter(|peer| peer.neighbour);
        peers.map(|peer| peer.node.clone()).collect()
    };
    assert_eq!(near("node-0000"), std::slice::from_ref(&stranger));
    assert_eq!(near(&stranger), ["node-0000"]);
    assert_eq!(near("node-0999"), [] as [&str; 0]);
}

#[test]
fn an_agent_without_a_port_for_others_is_not_measured_to() {
    let mut agents = fixture::agents(&["a", "b", "c"]);
    agents.get_mut("b").unwrap().weights_endpoint.clear();
    let labels = BTreeMap::from([(
        "a".to_owned(),
        NodeLabels::new(BTreeMap::from([(ZONE_LABEL.to_owned(), "z".to_owned())])),
    )]);
    let members = members(&agents, &labels);
    assert_eq!(members, [member("a", "z"), member("c", "")]);
}

fn object(node: &str, peer: &str, send: i64) -> Arc<NodeLinkState> {
    let object = json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "NodeLinkState", "metadata": { "name": node }, "spec": {},
        "status": { "node": node, "peers": [{
            "node": peer, "kind": "Ethernet", "state": "Measured", "latencyP50Us": 100, "latencyP99Us": 200,
            "sendBytesPerSecond": send, "receiveBytesPerSecond": send, "samples": 3, "measuredAt": "1970-01-01T00:00:00Z",
        }] },
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

#[test]
fn reports_are_judged_again_when_one_changes_or_grows_old() {
    let mut memory = Memory::default();
    let objects = [object("a", "b", 9_000_000)];
    let rate = |links: &Links| links.get("a", "b").map(|known| known.link.rate.bytes_per_second);
    let first = memory.links(&objects, 0);
    assert_eq!(rate(&first), Some(9_000_000));
    assert_eq!(memory.links(&objects, 60), first);
    assert_eq!(rate(&memory.links(&[object("a", "b", 5_000_000)], 60)), Some(5_000_000));
    assert_eq!(rate(&memory.links(&objects, 2 * 24 * 3600)), None, "too old");
}

#[test]
fn peers_are_chosen_anew_only_when_the_members_change() {
    let mut memory = Memory::default();
    let first = Arc::clone(&memory.peers(cluster(3, 1), BTreeSet::new())["node-0000"]);
    let again = Arc::clone(&memory.peers(cluster(3, 1), BTreeSet::new())["node-0000"]);
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(memory.peers(cluster(4, 1), BTreeSet::new())["node-0000"].peers.len(), 3);
}

#[test]
fn devices_that_work_as_one_are_the_same_value_until_something_else_is_told_of_them() {
    let mut memory = Memory::default();
    let mut told = |groups: &[&[u32]], at_s| {
        memory.links(&[fixture::groups("a", groups)], at_s);
        memory.groups()
    };
    let first = told(&[&[0, 1]], 0);
    assert!(Arc::ptr_eq(&first, &told(&[&[0, 1]], 60)));
    assert_ne!(first, told(&[&[0, 1], &[2, 3]], 60));
}
