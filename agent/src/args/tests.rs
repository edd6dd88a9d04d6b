use super::*;

fn parse(arguments: &[&str]) -> Result<Command, String> {
    let full = ["shardwright-agent"].iter().chain(arguments);
    command(Args::try_parse_from(full).map_err(|error| error.to_string())?)
}

fn settings(arguments: &[&str]) -> Result<Settings, String> {
    let node = ["--node-name", "node-a"]
        .iter()
        .chain(arguments)
        .copied()
        .collect::<Vec<_>>();
    match parse(&node)? {
        Command::Run(settings) => Ok(*settings),
        Command::Probe(_) | Command::Watch(_) => Err("another command".to_owned()),
    }
}

#[test]
fn what_models_may_take_and_where_they_come_from_is_told_by_flags() {
    let told = settings(&[
        "--pvc-root",
        "/mnt/claims",
        "--model-cache-bytes",
        "1000",
        "--hf-endpoint",
        "https://mirror.example",
        "--weights-listen",
        "127.0.0.1:0",
    ])
    .unwrap();
    assert_eq!(told.models.sources.pvc_root.unwrap().to_str(), Some("/mnt/claims"));
    assert_eq!(told.models.cache_bytes, Some(1000));
    assert_eq!(told.models.sources.hf_endpoint, "https://mirror.example");
    assert_eq!(told.models.root, told.state_dir.join("models"));
    for wrong in [
        ["--pvc-root", "claims"],
        ["--hf-endpoint", "http://mirror.example"],
        ["--weights-bytes-per-second", "0"],
    ] {
        assert!(settings(&wrong).unwrap_err().contains(wrong[0]));
    }
}

#[test]
fn the_defaults_are_those_of_a_pod() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.node, "node-a");
    assert_eq!(settings.backends, Backend::ALL);
    assert_eq!(settings.sysfs_root, PathBuf::from("/"));
    assert_eq!(settings.device_poll, Duration::from_secs(2));
    assert_eq!(settings.listen_ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(settings.threads >= 1);
    assert_eq!(settings.worker.file_name().unwrap(), "shardwright-worker");
}

#[test]
fn probing_needs_no_node() {
    let Command::Probe(probe) = parse(&["probe", "--json", "--backends", "vulkan"]).unwrap() else {
        panic!("probe")
    };
    assert!(probe.json);
    assert_eq!(probe.backends, [Backend::Vulkan]);
}

#[test]
fn probing_asks_every_backend_of_the_platform_the_best_first() {
    let Command::Probe(probe) = parse(&["probe"]).unwrap() else {
        panic!("probe")
    };
    assert_eq!(probe.backends, Platform::current().order());
}

#[test]
fn a_backend_that_is_named_twice_is_asked_once() {
    assert_eq!(
        settings(&["--backends", "vulkan,cpu,vulkan"]).unwrap().backends,
        [Backend::Cpu, Backend::Vulkan]
    );
}

#[test]
fn watching_needs_a_backend_and_a_sane_interval() {
    let Command::Watch(watch) = parse(&["watch", "--backend", "cuda", "--interval-ms", "1000"]).unwrap() else {
        panic!("watch")
    };
    assert_eq!((watch.backend, watch.interval_ms), (Backend::Cuda, 1000));
    assert!(parse(&["watch"]).unwrap_err().contains("--backend"));
    let error = parse(&["watch", "--backend", "cuda", "--interval-ms", "0"]).unwrap_err();
    assert!(error.contains("--interval-ms"), "{error}");
}

#[test]
fn nonsense_is_refused_with_the_name_of_the_flag() {
    let long = format!("/{}", "x".repeat(100));
    for (flag, value) in [
        ("--namespace", "Not_A_Name"),
        ("--trust-domain", ""),
        ("--pod-name", "Pod"),
        ("--operator-enrol", "operator"),
        ("--operator-control", "operator:0"),
        ("--state-dir", long.as_str()),
        ("--backends", "abacus"),
        ("--threads", "0"),
        ("--sysfs-root", "tree"),
        ("--device-poll-ms", "5"),
        ("--device-poll-ms", "60000"),
        ("--listen-ip", "nowhere"),
    ] {
        let error = settings(&[flag, value]).unwrap_err();
        assert!(error.contains(flag), "{flag}: {error}");
    }
}
