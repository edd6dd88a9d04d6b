use super::*;

#[test]
fn only_what_corrupts_a_context_counts_as_loss() {
    for lost in [46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721] {
        assert_eq!(Code(lost).class(), Class::Lost, "{lost}");
    }
    assert_eq!(Code(2).class(), Class::OutOfMemory);
    assert_eq!(Code(803).class(), Class::Mismatch);
    for other in [1, 100, 101, 200, 201, 704, 720, 800, 999, 12345] {
        assert_eq!(Code(other).class(), Class::Other, "{other}");
    }
}

#[test]
fn a_mismatch_is_named_whichever_library_tells_it() {
    assert!(Code(803).text().contains("DriverMismatch"));
    assert!(NvmlCode::VERSION_MISMATCH.text().contains("DriverMismatch"));
}

#[test]
fn a_number_without_a_name_is_shown_as_it_is() {
    assert_eq!(Code(4242).text(), "CUDA error 4242");
    assert_eq!(NvmlCode(4242).text(), "NVML error 4242");
}

#[test]
fn every_number_with_a_name_has_one_of_its_own() {
    let cuda: Vec<String> = (0..2000).map(|code| Code(code).text()).collect();
    let nvml: Vec<String> = (0..2000).map(|code| NvmlCode(code).text()).collect();
    for (texts, prefix, count) in [(cuda, "CUDA_ERROR_", 34), (nvml, "NVML_ERROR_", 16)] {
        let named = texts.iter().filter(|text| text.starts_with(prefix));
        let names: Vec<&str> = named.filter_map(|text| text.split([':', ' ']).next()).collect();
        let different: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!((names.len(), different.len()), (count, count), "{names:?}");
    }
}
