use super::*;

fn reason(uri: &str) -> (&'static str, String) {
    let error = Address::parse(uri).unwrap_err();
    (error.reason(), error.to_string())
}

#[test]
fn every_scheme_is_read_and_shown_as_it_was_meant() {
    for (uri, shown, name) in [
        ("file:///models/m.gguf", "/models/m.gguf", "m.gguf"),
        ("pvc://models/a/m.gguf", "pvc://models/a/m.gguf", "m.gguf"),
        (
            "https://h.example:8443/a/m.gguf",
            "https://h.example:8443/a/m.gguf",
            "m.gguf",
        ),
        ("hf://org/repo/m.gguf", "hf://org/repo/m.gguf@main", "m.gguf"),
        ("hf://org/repo/q4/m.gguf@v1", "hf://org/repo/q4/m.gguf@v1", "m.gguf"),
        ("oci://ghcr.io/a/b", "oci://ghcr.io/a/b:latest", "b"),
        ("oci://localhost:5000/a/b:q4", "oci://localhost:5000/a/b:q4", "b"),
    ] {
        let address = Address::parse(uri).unwrap();
        assert_eq!(
            (address.to_string().as_str(), address.file_name().as_str()),
            (shown, name)
        );
    }
    let digest = format!("sha256:{}", "ab".repeat(32));
    let pinned = Address::parse(&format!("oci://r.example/a:tag@{digest}")).unwrap();
    assert_eq!(pinned.to_string(), format!("oci://r.example/a@{digest}"));
}

#[test]
fn addresses_that_lead_elsewhere_or_nowhere_are_refused() {
    for uri in [
        "m.gguf",
        "http://h/m.gguf",
        "ftp://h/m.gguf",
        "file://m.gguf",
        "pvc://models",
        "pvc://models/../m.gguf",
        "pvc://../m.gguf",
        "pvc:///m.gguf",
        "pvc://models//../m.gguf",
        "https://h/",
        "https:///m.gguf",
        "https://user:secret@h/m.gguf",
        "hf://org/m.gguf",
        "hf://org/repo/../m.gguf",
        "hf://org/repo/m.gguf@../x",
        "oci://registry",
        "oci://r/a@sha256:abc",
        "oci://user@r/a",
        "oci://r/a/../b",
        "https://h/a b.gguf",
    ] {
        assert_eq!(reason(uri).0, "Unreadable", "{uri}");
    }
}

#[test]
fn safetensors_are_refused_with_the_command_that_converts_them() {
    for uri in [
        "hf://org/repo/model-00001-of-00002.safetensors",
        "https://h/model.safetensors?download=true",
        "file:///m/model.safetensors.index.json",
    ] {
        let (reason, message) = reason(uri);
        assert_eq!(reason, "UnsupportedFormat");
        assert!(message.contains("convert_hf_to_gguf.py"), "{message}");
    }
}

#[test]
fn what_is_secret_in_an_address_is_never_shown() {
    let address = Address::parse("https://h/m.gguf?X-Amz-Signature=secret#secret").unwrap();
    assert_eq!(address.to_string(), "https://h/m.gguf");
    let (_, message) = reason("https://name:secret@h/m.gguf?token=secret");
    assert!(
        !message.contains("secret@") && !message.contains("token=secret"),
        "{message}"
    );
}

#[test]
fn files_beside_keep_folder_and_query() {
    let url = Url::parse("https://h/a/m-00001-of-00002.gguf?sig=1").unwrap();
    assert_eq!(
        beside(&url, "m-00002-of-00002.gguf").as_str(),
        "https://h/a/m-00002-of-00002.gguf?sig=1"
    );
}
