use proptest::prelude::*;

use super::*;

fn segment() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,253}".prop_filter("dots alone are no name", |text| text != "." && text != "..")
}

fn role() -> impl Strategy<Value = Role> {
    (0..4, segment(), segment()).prop_map(|(kind, first, second)| match kind {
        0 => Role::Operator { pod: first },
        1 => Role::Agent { node: first },
        2 => Role::Worker {
            node: first,
            model_uid: second,
        },
        _ => Role::Gateway { pod: first },
    })
}

proptest! {
    #[test]
    fn every_well_formed_id_survives_the_round_trip_through_text(trust_domain in "[a-z0-9._-]{1,255}", role in role()) {
        let id = SpiffeId::new(trust_domain, role).unwrap();
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn any_text_is_either_refused_or_read_as_exactly_itself(text in "\\PC{0,80}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn text_that_looks_like_an_id_is_either_refused_or_read_as_exactly_itself(
        text in "spiffe://[a-zA-Z0-9:@%._-]{0,12}/(operator|agent|worker|gateway|node)[a-z0-9/.?#%\\\\ \u{e9}-]{0,24}",
    ) {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
            prop_assert_eq!(id.validate(), Ok(()));
        }
    }

    #[test]
    fn an_id_put_together_from_hostile_parts_is_refused_unless_its_text_reads_back(
        trust_domain in "\\PC{0,12}", node in "\\PC{0,12}",
    ) {
        if let Ok(id) = SpiffeId::new(trust_domain, Role::Agent { node }) {
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }
    }
}

#[test]
fn each_role_has_its_path() {
    let text = |role| SpiffeId::new("shardwright", role).unwrap().to_string();
    assert_eq!(
        text(Role::Operator { pod: "op-0".into() }),
        "spiffe://shardwright/operator/op-0"
    );
    assert_eq!(
        text(Role::Agent { node: "node-a".into() }),
        "spiffe://shardwright/agent/node-a"
    );
    assert_eq!(
        text(Role::Gateway { pod: "gw".into() }),
        "spiffe://shardwright/gateway/gw"
    );
    let worker = Role::Worker {
        node: "a.b.example".into(),
        model_uid: "0b7c-11".into(),
    };
    assert_eq!(text(worker), "spiffe://shardwright/worker/a.b.example/0b7c-11");
}

#[test]
fn hostile_texts_are_refused() {
    let long_name = format!("spiffe://shardwright/agent/{}", "a".repeat(254));
    let long_domain = format!("spiffe://{}/agent/a", "d".repeat(256));
    let endless = format!("spiffe://shardwright/agent/{}", "a/".repeat(4096));
    let hostile = [
        "",
        "spiffe://",
        "spiffe://shardwright",
        "spiffe://shardwright/",
        "spiffe://shardwright/agent",
        "spiffe://shardwright/agent/",
        "spiffe://shardwright//node",
        "spiffe:///agent/node",
        "SPIFFE://shardwright/agent/node",
        "https://shardwright/agent/node",
        "spiffe://Shardwright/agent/node",
        "spiffe://shardwright:443/agent/node",
        "spiffe://admin@shardwright/agent/node",
        "spiffe://shardwright/agent/node/",
        "spiffe://shardwright/agent/./node",
        "spiffe://shardwright/agent/..",
        "spiffe://shardwright/agent/node/../other",
        "spiffe://shardwright/agent/node%2fb",
        "spiffe://shardwright/agent/node?x=1",
        "spiffe://shardwright/agent/node#x",
        "spiffe://shardwright/agent/node\0",
        " spiffe://shardwright/agent/node",
        "spiffe://shardwright/agent/node\n",
        "spiffe://shardwright/Agent/node",
        "spiffe://shardwright/admin/node",
        "spiffe://shardwright/worker/node",
        "spiffe://shardwright/worker/node/uid/extra",
        "spiffe://shardwright/agent/n\u{f6}de",
        &long_name,
        &long_domain,
        &endless,
    ];
    for text in hostile {
        assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
    }
}

#[test]
fn what_is_wrong_with_a_text_is_told_with_what_would_be_right() {
    let long = format!("spiffe://shardwright/agent/{}", "a".repeat(MAX_ID_BYTES));
    for (text, told) in [
        (long.as_str(), "SPIFFE id has 2075 bytes, at most 2048 are read"),
        (
            "https://shardwright/agent/a",
            "\"https://shardwright/agent/a\" does not begin with \"spiffe://\"",
        ),
        (
            "spiffe://Shardwright/agent/a",
            "trust domain \"Shardwright\" is not 1 to 255 of a-z 0-9 . - _",
        ),
        (
            "spiffe://shardwright/agent/..",
            "path segment \"..\" is not 1 to 253 of A-Z a-z 0-9 . - _ and not \".\" or \"..\"",
        ),
        (
            "spiffe://shardwright/node/a",
            "path \"node/a\" is not operator/<pod>, agent/<node>, worker/<node>/<model uid> or gateway/<pod>",
        ),
    ] {
        assert_eq!(text.parse::<SpiffeId>().unwrap_err().to_string(), told);
    }
}

#[test]
fn parts_that_would_change_the_meaning_of_the_text_are_refused() {
    let id = SpiffeId::new(
        "shardwright",
        Role::Agent {
            node: "node/../../operator/x".into(),
        },
    );
    assert!(matches!(id, Err(SpiffeIdError::Segment { .. })));
    let id = SpiffeId::new("shardwright/operator", Role::Agent { node: "a".into() });
    assert!(matches!(id, Err(SpiffeIdError::TrustDomain { .. })));
}
