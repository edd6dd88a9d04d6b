use super::*;

fn valid() -> WorkerConfig {
    let json = r#"{
        "model_uid": "9b3c", "node": "node-a", "device": "node-a-cpu0",
        "first_layer": 10, "end_layer": 20, "total_layers": 30,
        "backend": "cpu", "device_index": 0, "threads": 2, "memory_budget_bytes": 0,
        "slice": {"header": "/s/slice.gguf", "parts": ["/s/1.gguf", "/s/2.gguf"]},
        "embedding": null, "embedding_length": 576,
        "runtime": {"context_length": 2048, "parallel_sequences": 4, "kv_type": "q8_0", "max_step_rows": 63},
        "listen": "127.0.0.1:0", "advertise_ip": "127.0.0.1", "control_socket": "/s/w.sock",
        "identity_dir": "/s/id", "trust_domain": "shardwright", "orphan_grace_s": 10
    }"#;
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_the_agent_writes_is_read_and_written_alike() {
    let config = valid();
    validate(&config).unwrap();
    assert_eq!(config.runtime.kv_type, KvType::Q8_0);
    assert!(config.keep_awake && config.speculate, "unless they are switched off");
    assert_eq!(config.epoch_file(), Path::new("/s/w.epoch"));
    assert_eq!(
        spiffe_id(&config).to_string(),
        "spiffe://shardwright/worker/node-a/9b3c"
    );
    assert!(config.group_indices.is_empty(), "unless it says otherwise");
    let config = WorkerConfig {
        backend: Backend::Vulkan,
        group_indices: (1..8).collect(),
        ..config
    };
    validate(&config).unwrap();
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<WorkerConfig>(&written).unwrap(), config);
}

#[test]
fn a_value_that_cannot_work_is_refused_by_the_name_of_its_field() {
    type Change = fn(&mut WorkerConfig);
    let cases: [(&str, Change); 18] = [
        ("end_layer", |c| c.end_layer = 10),
        ("end_layer", |c| c.end_layer = 31),
        ("embedding", |c| c.embedding = Some("/s/e.gguf".into())),
        ("embedding_length", |c| c.embedding_length = 0),
        ("group_indices", |c| c.group_indices = vec![1]),
        ("group_indices", |c| {
            (c.backend, c.group_indices) = (Backend::Vulkan, (1..9).collect());
        }),
        ("threads", |c| c.threads = 0),
        ("orphan_grace_s", |c| c.orphan_grace_s = 0),
        ("runtime.context_length", |c| c.runtime.context_length = 1),
        ("runtime.parallel_sequences", |c| c.runtime.parallel_sequences = 255),
        ("runtime.prefix_sequences", |c| c.runtime.prefix_sequences = 251),
        ("runtime.max_step_rows", |c| c.runtime.max_step_rows = 1),
        ("runtime.max_step_rows", |c| {
            (c.runtime.max_step_rows, c.embedding_length) = (4096, 16384)
        }),
        ("listen", |c| c.listen = "localhost".into()),
        ("advertise_ip", |c| c.advertise_ip = "localhost".into()),
        ("control_socket", |c| c.control_socket = "/s/".repeat(50).into()),
        ("control_socket", |c| c.control_socket = "/".into()),
        ("trust_domain, node or model_uid", |c| c.node = "a/b".into()),
    ];
    for (expected, change) in cases {
        let mut config = valid();
        change(&mut config);
        match validate(&config) {
            Err(ConfigError::Invalid { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn only_a_whole_model_may_do_without_an_embedding_beside_it() {
    let mut head = valid();
    (head.first_layer, head.embedding) = (0, None);
    assert!(matches!(
        validate(&head),
        Err(ConfigError::Invalid { field: "embedding", .. })
    ));
    head.end_layer = head.total_layers;
    validate(&head).unwrap();
    head.embedding = Some("/s/e.gguf".into());
    validate(&head).unwrap();
}

#[test]
fn unknown_fields_are_refused_and_an_unknown_backend_by_the_names_there_are() {
    let mut json = serde_json::to_value(valid()).unwrap();
    for backend in [
        Backend::Cuda,
        Backend::Hip,
        Backend::Sycl,
        Backend::OpenCl,
        Backend::Vulkan,
    ] {
        json["backend"] = backend.name().into();
        let config: WorkerConfig = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(config.backend, backend);
    }
    json["backend"] = "metal".into();
    let error = serde_json::from_value::<WorkerConfig>(json.clone()).unwrap_err();
    for name in ["metal", "cpu", "vulkan", "cuda", "hip", "sycl", "opencl"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    json["backend"] = "vulkan".into();
    json["kv_typ"] = "f16".into();
    assert!(serde_json::from_value::<WorkerConfig>(json).is_err());
}

#[test]
fn a_file_that_is_missing_cut_off_or_of_nonsense_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.json");
    let refused = || {
        let error = read(&path).unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with(&format!("configuration {}: ", path.display())),
            "{said}"
        );
        error
    };
    assert!(matches!(refused(), ConfigError::Unreadable { .. }));
    let whole = serde_json::to_string(&valid()).unwrap();
    for text in ["", "[]", &whole[..whole.len() / 2]] {
        std::fs::write(&path, text).unwrap();
        let error = refused();
        assert!(matches!(error, ConfigError::Malformed { .. }), "{error}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(read(&path).unwrap(), valid());
}

#[test]
fn what_may_be_given_up_is_nothing_unless_said() {
    let mut json = serde_json::to_value(valid()).unwrap();
    json.as_object_mut().unwrap().remove("pressure");
    let config: WorkerConfig = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(config.pressure, PressureConfig::default());
    json["pressure"] = serde_json::json!({"allow_host_layers": true});
    let config: WorkerConfig = serde_json::from_value(json).unwrap();
    assert!(config.pressure.allow_host_layers && !config.pressure.allow_kv_quantisation);
}
