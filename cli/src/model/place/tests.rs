use super::*;

const HUB: &str = "https://hub.example/";

fn url(text: &str) -> String {
    match Place::parse(text, HUB).unwrap() {
        Place::Remote { url, .. } => url.into(),
        Place::Local(path) => panic!("{}", path.display()),
    }
}

#[test]
fn paths_and_file_uris_are_local() {
    for (text, path) in [
        ("m.gguf", "m.gguf"),
        ("/a/m.gguf", "/a/m.gguf"),
        ("file:///a/m.gguf", "/a/m.gguf"),
    ] {
        assert_eq!(Place::parse(text, HUB).unwrap(), Place::Local(path.into()));
    }
}

#[test]
fn hub_uris_name_organisation_repository_file_and_revision() {
    assert_eq!(
        url("hf://org/repo/m.gguf"),
        "https://hub.example/org/repo/resolve/main/m.gguf"
    );
    assert_eq!(
        url("hf://org/repo/Q4/m-00001-of-00002.gguf@refs/pr/3"),
        "https://hub.example/org/repo/resolve/refs%2Fpr%2F3/Q4/m-00001-of-00002.gguf"
    );
    for wrong in [
        "hf://org/m.gguf",
        "hf://org/repo/",
        "hf://org//m.gguf",
        "hf://org/repo/../m.gguf",
        "hf://o/r/m@",
    ] {
        let failure = Place::parse(wrong, HUB).unwrap_err();
        assert!(
            matches!(&failure, Failure::Usage(text) if text.contains("hf://<org>")),
            "{failure}"
        );
    }
}

#[test]
fn what_cannot_be_reached_from_here_is_refused_with_the_remedy() {
    for (text, words) in [
        ("http://a/m.gguf", "https:// alone"),
        ("pvc://claim/m.gguf", "run this where it is"),
        ("oci://registry/repo", "before it is pushed"),
        ("s3://bucket/m.gguf", "give a path"),
        ("file://m.gguf", "absolute path"),
        ("https://user:secret@a/m.gguf", "--token"),
    ] {
        let failure = Place::parse(text, HUB).unwrap_err();
        assert!(
            matches!(&failure, Failure::Usage(said) if said.contains(words)),
            "{failure}"
        );
    }
    assert!(Place::parse("hf://a/b/c", "http://plain").is_err());
}
