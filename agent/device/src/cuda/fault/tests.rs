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
