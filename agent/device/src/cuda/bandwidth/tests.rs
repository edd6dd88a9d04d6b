use super::*;

fn gigabytes(model: &str) -> Option<u64> {
    prior(model).map(|prior| prior.bandwidth_bytes_per_second / 1_000_000_000)
}

#[test]
fn boards_are_found_by_the_names_that_drivers_give_them() {
    for (name, expected) in [
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("A100-SXM4-40GB", 1555),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("Tesla K80", 240),
        ("Tesla T4", 320),
        ("Tesla V100-SXM2-16GB", 900),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA H100 NVL", 3900),
        ("NVIDIA H200", 4800),
        ("NVIDIA B200", 8000),
        ("NVIDIA L40S", 864),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("GeForce GTX 1080 Ti", 484),
        ("NVIDIA RTX 6000 Ada Generation", 960),
        ("Quadro RTX 6000", 672),
        ("NVIDIA TITAN V", 653),
    ] {
        assert_eq!(gigabytes(name), Some(expected), "{name}");
    }
}

#[test]
fn a_name_that_only_begins_or_ends_like_a_boards_is_another_board() {
    for name in [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3080 Laptop GPU",
        "NVIDIA GeForce RTX 3070 Ti Laptop GPU",
        "GeForce GTX 1080 with Max-Q Design",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A100X",
        "NVIDIA A10M",
        "GRID T4-16Q",
        "NVIDIA",
        "",
        "Orin",
    ] {
        assert_eq!(gigabytes(name), None, "{name}");
    }
}

#[test]
fn every_row_is_one_board_with_a_figure_and_a_source() {
    assert!(TABLE.len() >= 45);
    for (place, row) in TABLE.iter().enumerate() {
        assert!((50..=10_000).contains(&row.gigabytes_per_second), "{}", row.name);
        assert!(
            row.source.starts_with("NVIDIA") || row.source.starts_with("Amazon"),
            "{}",
            row.source
        );
        let again = TABLE[place + 1..]
            .iter()
            .any(|other| words(other.name) == words(row.name));
        assert!(!again, "{} is there twice", row.name);
        assert!(!words(row.name).is_empty());
    }
}

#[test]
fn names_that_drivers_give_are_the_boards_they_name_and_no_others() {
    for line in include_str!("../../../fixtures/nvidia-names.txt").lines() {
        if let Some((name, figure)) = line.split_once(" | ") {
            assert_eq!(gigabytes(name), figure.parse().ok(), "{name}");
        }
    }
}
