use super::*;

const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
ib0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
wlan0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
garbage
";

const ROUTES_V6: &str = "\
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
fd000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     tun0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

#[test]
fn the_longest_route_names_the_card() {
    assert_eq!(card_of_v4(ROUTES, "8.8.8.8".parse().unwrap()), Some("eth0"));
    assert_eq!(card_of_v4(ROUTES, "10.7.7.7".parse().unwrap()), Some("ib0"));
    assert_eq!(card_of_v4(ROUTES, "10.0.2.7".parse().unwrap()), Some("wlan0"));
    assert_eq!(card_of_v4("", "10.0.2.7".parse().unwrap()), None);
    assert_eq!(card_of_v6(ROUTES_V6, "fe80::1".parse().unwrap()), Some("eth0"));
    assert_eq!(card_of_v6(ROUTES_V6, "fd12::1".parse().unwrap()), Some("tun0"));
    assert_eq!(card_of_v6(ROUTES_V6, "2001::1".parse().unwrap()), Some("lo"));
    assert_eq!(card_of_v6("zz 0 1", "2001::1".parse().unwrap()), None);
}

#[test]
fn a_card_is_what_the_system_says_of_it() {
    let card = |kind, has_device, is_wireless| {
        of_card(&Card {
            kind,
            has_device,
            is_wireless,
        })
    };
    assert_eq!(card(TYPE_ETHERNET, true, false), LinkKind::Ethernet);
    assert_eq!(card(TYPE_ETHERNET, true, true), LinkKind::Wireless);
    assert_eq!(
        card(TYPE_ETHERNET, false, false),
        LinkKind::Virtual,
        "the end of a pair in a pod"
    );
    assert_eq!(card(TYPE_INFINIBAND, true, false), LinkKind::InfiniBand);
    assert_eq!(card(TYPE_LOOPBACK, false, false), LinkKind::Loopback);
    assert_eq!(card(65534, false, false), LinkKind::Virtual, "a tunnel");
}

#[test]
fn a_machine_is_looked_at_below_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/net/route", ROUTES);
    write("sys/class/net/eth0/type", "1\n");
    write("sys/class/net/eth0/device/vendor", "0x8086\n");
    let own = "192.168.1.9".parse().unwrap();
    let kind = |endpoint: &str| find(root.path(), own, endpoint);
    assert_eq!(kind("8.8.8.8:9445"), LinkKind::Ethernet);
    assert_eq!(kind("192.168.1.9:1"), LinkKind::Loopback);
    assert_eq!(kind("127.0.0.1:1"), LinkKind::Loopback);
    assert_eq!(
        kind("10.7.7.7:1"),
        LinkKind::Unknown,
        "the system does not know the card"
    );
    assert_eq!(kind("node-b:9445"), LinkKind::Unknown);
}
