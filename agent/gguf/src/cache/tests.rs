use std::io::Cursor;

use super::*;
use crate::fixture::{llama, parse, real_model, weight};
use crate::index::{CachedWeights, data_digest, file_digest, index};

fn write_all(directory: &Path, source: &[u8]) -> Gguf {
    let gguf = parse(source);
    let pieces = pieces(&gguf).unwrap();
    for piece in pieces.all() {
        write_piece(&mut Cursor::new(source), &pieces, piece, &piece_path(directory, piece)).unwrap();
        assert!(is_piece_complete(directory, &pieces, piece));
    }
    gguf
}

fn tensor_bytes(path: &Path, name: &str) -> Vec<u8> {
    let gguf = Gguf::open(path).unwrap();
    let tensor = gguf.tensor(name).unwrap();
    let range = tensor.offset_bytes as usize..(tensor.offset_bytes + tensor.size_bytes) as usize;
    fs::read(path).unwrap()[range].to_vec()
}

#[test]
fn cutting_again_changes_names_and_never_weights() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let gguf = write_all(at, &llama(5).untied().bytes());
    let layer = piece_path(at, Piece::Layer(3));
    let expected: Vec<u8> = (0..120).map(|place| weight("blk.3.ffn_up.weight", place)).collect();
    assert_eq!(tensor_bytes(&layer, "blk.3.ffn_up.weight"), expected);
    for (first, end) in [(0, 5), (3, 5), (1, 4), (3, 4), (2, 5)] {
        let files = prepare_slice(at, &gguf, first, end).unwrap();
        assert!(files.parts.contains(&layer));
        assert_eq!(files.embedding.is_some(), first == 0);
        assert_eq!(files.splits().len(), files.parts.len() + 1);
        assert_eq!(
            tensor_bytes(&layer, &format!("blk.{}.ffn_up.weight", 3 - first)),
            expected
        );
    }
}

#[test]
fn a_tensor_that_is_larger_than_the_copy_buffer_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let name = "blk.0.large.weight";
    // The last of its file: nothing may be read behind it.
    let source = llama(1).with_tensor(name, &[64, 6_000]).bytes();
    let gguf = write_all(directory.path(), &source);
    let tensor = gguf.tensor(name).unwrap();
    assert!(tensor.size_bytes > COPY_BYTES as u64);
    let (offset, size) = (tensor.offset_bytes, tensor.size_bytes);
    let expected = &source[offset as usize..(offset + size) as usize];
    assert_eq!(
        tensor_bytes(&piece_path(directory.path(), Piece::Layer(0)), name),
        expected
    );
    let digest = data_digest(&mut Cursor::new(&source), 0, offset, size).unwrap();
    assert_eq!(digest, file_digest(&mut &expected[..]).unwrap());
}

#[test]
fn the_files_of_a_slice_are_a_split_set() {
    let directory = tempfile::tempdir().unwrap();
    let gguf = write_all(directory.path(), &llama(4).with_rotary_factors().bytes());
    let files = prepare_slice(directory.path(), &gguf, 1, 3).unwrap();
    let first = Gguf::open(&files.header).unwrap();
    assert_eq!(first.metadata.u32("split.count"), Ok(files.splits().len() as u32));
    let mut tensors = 0;
    for (number, path) in files.splits().iter().enumerate() {
        let file = Gguf::open(path).unwrap();
        assert_eq!(file.metadata.u32("split.no"), Ok(number as u32));
        tensors += file.tensors.len();
    }
    assert_eq!(first.metadata.u32("split.tensors.count"), Ok(tensors as u32));
}

#[test]
fn models_that_are_fed_tokens_have_no_embedding_to_look_up() {
    let directory = tempfile::tempdir().unwrap();
    let gguf = write_all(directory.path(), &llama(2).of("glm4").bytes());
    let files = prepare_slice(directory.path(), &gguf, 0, 2).unwrap();
    assert_eq!(files.embedding, None);
}

#[test]
fn a_piece_that_is_missing_or_short_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let gguf = write_all(at, &llama(3).bytes());
    let path = piece_path(at, Piece::Layer(1));
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 1)
        .unwrap();
    let error = prepare_slice(at, &gguf, 0, 2).unwrap_err();
    assert!(
        matches!(
            error,
            CacheError::PieceMissing {
                piece: Piece::Layer(1),
                ..
            }
        ),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    let error = prepare_slice(at, &gguf, 1, 3).unwrap_err();
    assert!(error.to_string().contains("layer 1"), "{error}");
    prepare_slice(at, &gguf, 2, 3).unwrap();
}

#[test]
fn what_is_no_slice_of_the_model_is_refused_before_any_file_is_made() {
    type Prepare = fn(&Path, &Gguf, u32, u32) -> Result<SliceFiles, CacheError>;
    let both: [Prepare; 2] = [prepare_slice, |at, gguf, first, end| {
        link_slice(at, &at.join("one"), gguf, first, end)
    }];
    let directory = tempfile::tempdir().unwrap();
    let whole = llama(2).gguf();
    let mut headless = whole.clone();
    headless.tensors.retain(|tensor| tensor.name != "token_embd.weight");
    for prepare in both {
        let error = prepare(directory.path(), &whole, 1, 3).unwrap_err();
        assert!(
            matches!(&error, CacheError::Slice(SliceError::OutOfRange { .. })),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "layers 1 to 3 (exclusive) are no range of a model with 2 layers"
        );
        let error = prepare(directory.path(), &headless, 0, 2).unwrap_err();
        assert!(matches!(&error, CacheError::Slice(SliceError::Piece(_))), "{error}");
        assert!(error.to_string().contains("token_embd.weight"), "{error}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_header_torn_by_a_crash_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let gguf = write_all(at, &llama(3).bytes());
    prepare_slice(at, &gguf, 1, 2).unwrap();
    let path = piece_path(at, Piece::Layer(1));
    let good = fs::read(&path).unwrap();
    let mut torn = good.clone();
    torn[..2048].fill(0xee);
    fs::write(&path, torn).unwrap();
    prepare_slice(at, &gguf, 1, 2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn a_source_that_shrank_leaves_no_file_behind() {
    let directory = tempfile::tempdir().unwrap();
    let source = llama(2).bytes();
    let gguf = parse(&source);
    let pieces = pieces(&gguf).unwrap();
    let shrunk = &source[..gguf.tensor("blk.0.ffn_up.weight").unwrap().offset_bytes as usize + 3];
    let path = piece_path(directory.path(), Piece::Layer(0));
    let error = write_piece(&mut Cursor::new(shrunk), &pieces, Piece::Layer(0), &path).unwrap_err();
    assert!(
        matches!(&error, CacheError::SourceChanged { tensor } if tensor == "blk.0.ffn_up.weight"),
        "{error}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_killed_writers_left_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("layer-00001.gguf.77-0.partial"), b"half").unwrap();
    fs::write(at.join("layer-00002.gguf"), b"other").unwrap();
    assert_eq!(remove_partial_files(at).unwrap(), 1);
    assert_eq!(remove_partial_files(at).unwrap(), 0);
    assert!(at.join("layer-00002.gguf").exists());
    let error = remove_partial_files(&at.join("nowhere")).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn a_real_model_goes_through_the_cache_unchanged() {
    let Some(path) = real_model() else { return };
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let gguf = Gguf::open(&path).unwrap();
    let pieces = pieces(&gguf).unwrap();
    let mut source = File::open(&path).unwrap();
    for piece in pieces.all() {
        write_piece(&mut source, &pieces, piece, &piece_path(at, piece)).unwrap();
    }
    let layers = pieces.layer_count();
    let expected = index(&mut source, &pieces).unwrap();
    for (first, end) in [(0, layers), (0, layers / 2), (layers / 2, layers), (3, 7)] {
        prepare_slice(at, &gguf, first, end).unwrap();
        let weights = CachedWeights::new(at, &pieces).unwrap();
        assert_eq!(
            weights.stage_root(first, end).unwrap(),
            expected.stage_root(first, end).unwrap()
        );
    }
}
