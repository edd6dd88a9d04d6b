use super::*;
use proto::control::v1::ShardStatus;

#[test]
fn a_scrape_has_every_phase_and_the_epochs() {
    let status = ShardStatus {
        model_uid: "uid".into(),
        epoch: 7,
        phase: ShardPhase::Serving.into(),
        ..Default::default()
    };
    let view = View {
        statuses: vec![status],
        worker_failures: 3,
        ..View::default()
    };
    let fetched = Counters::new();
    fetched.received(crate::source::Kind::Hf, 12);
    let text = text(
        "node-a",
        &Devices::default(),
        &view,
        true,
        &fetched,
        &Seen::default(),
        false,
    )
    .unwrap();
    for line in [
        "shardwright_agent_attached 1",
        "shardwright_agent_shards{phase=\"serving\"} 1",
        "shardwright_agent_shards{phase=\"failed\"} 0",
        "shardwright_agent_shard_epoch{model_uid=\"uid\",pipeline=\"0\",stage=\"0\"} 7",
        "shardwright_agent_worker_failures_total 3",
        "shardwright_agent_fetch_bytes_total{source=\"hf\"} 12",
        "shardwright_agent_fetch_bytes_total{source=\"peer\"} 0",
        "shardwright_agent_fetch_seconds_count 0",
        "shardwright_agent_cache_bytes 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

/// The exposition format, as Prometheus reads it: one TYPE for each family, before its series; every series of a family
/// whose TYPE was told; names and label names of the right letters; values quoted and escaped; no series twice.
fn assert_is_exposition(text: &str) {
    let mut types = std::collections::BTreeMap::new();
    let mut series = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} has two TYPEs"
            );
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (labelled, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = labelled
            .split_once('{')
            .map_or((labelled, ""), |(name, labels)| (name, labels));
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            "{line}"
        );
        let of_family = |family: &String| {
            let rest = name.strip_prefix(family.as_str());
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        assert!(types.keys().any(of_family), "{name} has no TYPE");
        if let Some(kind) = types
            .get(name)
            .filter(|_| name.ends_with("_total") && !name.starts_with("DCGM"))
        {
            assert_eq!(kind, "counter", "{name}");
        }
        assert_labels(labels);
        assert!(series.insert(labelled.to_owned()), "{labelled} is there twice");
    }
}

/// `a="…",b="…"}` with backslashes, quotes and line ends escaped.
fn assert_labels(labels: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            "{labels}"
        );
        let mut escaped = false;
        let end = quoted.find(|letter: char| {
            let ends = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        rest = &quoted[end.unwrap_or_else(|| panic!("{labels} does not end")) + 1..];
        rest = rest
            .strip_prefix(',')
            .or_else(|| rest.strip_prefix('}'))
            .unwrap_or_else(|| panic!("{labels}"));
    }
}

#[test]
fn a_scrape_is_what_prometheus_reads_whatever_a_driver_calls_its_card() {
    let mut devices = fixture::devices();
    devices.states[0].device.model = "a \"card\"\nwith \\ everything} 1".into();
    devices.counters.probes.insert(device::Backend::Cpu, 2);
    let text = text(
        "node-a",
        &devices,
        &View::default(),
        false,
        &Counters::new(),
        &Seen::default(),
        true,
    )
    .unwrap();
    assert_is_exposition(&text);
    assert!(text.contains(r#"model="a \"card\"\nwith \\ everything} 1""#), "{text}");
    assert!(text.contains("shardwright_agent_device_probes_total{backend=\"cpu\"} 2"));
}

#[test]
fn lines_that_a_process_forged_in_the_kernels_log_are_counted() {
    let mut devices = fixture::devices();
    devices.counters.spoofed_events = 3;
    let text = text(
        "node-a",
        &devices,
        &View::default(),
        true,
        &Counters::new(),
        &Seen::default(),
        false,
    )
    .unwrap();
    let counted = text
        .lines()
        .any(|line| line == "shardwright_agent_kmsg_spoofed_total 3");
    assert!(counted, "{text}");
}

#[test]
fn names_of_nvidias_exporter_are_there_only_where_they_are_asked_for() {
    let devices = fixture::devices();
    let scrape = |dcgm| {
        text(
            "n",
            &devices,
            &View::default(),
            true,
            &Counters::new(),
            &Seen::default(),
            dcgm,
        )
        .unwrap()
    };
    assert!(!scrape(false).contains("DCGM_"));
    assert!(scrape(true).contains("DCGM_FI_DEV_GPU_TEMP"));
}
