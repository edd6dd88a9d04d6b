use super::*;

#[test]
fn llama_is_cut_between_layers_and_others_run_whole() {
    assert_eq!(architecture("llama").unwrap().division, Division::BetweenLayers);
    for name in ["smollm3", "gemma2", "gemma3n", "baichuan", "qwen3", "granite"] {
        assert_eq!(architecture(name).unwrap().division, Division::Whole, "{name}");
    }
}

#[test]
fn what_does_not_run_is_refused_by_name() {
    let error = architecture("no-such-model").unwrap_err();
    assert!(matches!(error, ArchitectureError::Unknown { .. }));
    assert!(error.to_string().contains("`no-such-model`"), "{error}");
    let error = architecture("bert").unwrap_err();
    assert!(matches!(error, ArchitectureError::NoTextGenerator { .. }));
    assert!(error.to_string().contains("`bert`"), "{error}");
}

#[test]
fn no_architecture_is_listed_twice() {
    let names = SPLITTABLE
        .iter()
        .chain(RUN_WHOLE)
        .map(|known| known.name)
        .chain(NO_TEXT_GENERATORS.iter().copied());
    let mut names: Vec<_> = names.collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
