use super::*;
use gguf::TensorType;

fn tensor(file: u16, offset_bytes: u64, size_bytes: u64) -> Tensor {
    Tensor {
        name: format!("{file}/{offset_bytes}"),
        dimensions: vec![size_bytes / 4],
        tensor_type: TensorType::F32,
        file,
        offset_bytes,
        size_bytes,
    }
}

#[test]
fn neighbours_are_read_in_one_range_and_strangers_are_not() {
    let far = 1000 + GAP_BYTES_MAX + 1;
    let held = [
        tensor(0, 500, 500),
        tensor(0, 0, 400),
        tensor(0, far, 100),
        tensor(1, far + 100, 100),
        tensor(0, 400, 64),
    ];
    let tensors: Vec<&Tensor> = held.iter().collect();
    let found = runs(&tensors, &[0, 1, 2, 3, 4]);
    let ranges: Vec<_> = found.iter().map(|run| (run.file, run.begin, run.end)).collect();
    assert_eq!(ranges, [(0, 0, 1000), (0, far, far + 100), (1, far + 100, far + 200)]);
    assert_eq!(found[0].tensors, [1, 4, 0]);
    assert_eq!(runs(&tensors, &[]), []);
}
