use super::*;
use crate::cache::{is_piece_complete, piece_path, write_piece};
use crate::fixture::{llama, parse};
use crate::piece::pieces;
use scarcity::disk::{Thin, forget_cached};
use std::io::Cursor;

#[test]
fn a_piece_filled_in_two_lives_is_the_one_that_is_written_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let source = llama(3).bytes();
    let gguf = parse(&source);
    let all = pieces(&gguf).unwrap();
    let piece = Piece::Layer(1);
    let path = piece_path(directory.path(), piece);
    let bytes_of = |tensor: &Tensor| &source[tensor.offset_bytes as usize..][..tensor.size_bytes as usize];

    let mut first = PartialPiece::open(&path, &all, piece).unwrap();
    assert!(!first.is_resumed());
    let tensors: Vec<&Tensor> = first.tensors().collect();
    first.write(1, 0, bytes_of(tensors[1])).unwrap();
    first.write(0, 0, &bytes_of(tensors[0])[..7]).unwrap();
    drop(first);
    assert!(!is_piece_complete(directory.path(), &all, piece));

    let mut second = PartialPiece::open(&path, &all, piece).unwrap();
    assert!(second.is_resumed());
    let expected = |number: usize| Digest(Sha256::digest(bytes_of(tensors[number])).into());
    assert_eq!(second.digest(1).unwrap(), expected(1));
    assert_ne!(second.digest(0).unwrap(), expected(0));
    second.write(0, 7, &bytes_of(tensors[0])[7..]).unwrap();
    assert_eq!(second.digest(0).unwrap(), expected(0));
    second.finish().unwrap();

    let whole = directory.path().join("whole.gguf");
    write_piece(&mut Cursor::new(&source), &all, piece, &whole).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
    assert!(!filling_path(&path).exists());
}

#[test]
fn bytes_beyond_a_tensor_are_refused_and_a_discarded_piece_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = llama(1).bytes();
    let gguf = parse(&source);
    let all = pieces(&gguf).unwrap();
    let path = piece_path(directory.path(), Piece::Layer(0));
    let mut partial = PartialPiece::open(&path, &all, Piece::Layer(0)).unwrap();
    let size = partial.tensors().next().unwrap().size_bytes;
    assert!(partial.write(0, size, b"x").is_err());
    assert!(partial.write(0, u64::MAX, b"x").is_err());
    partial.discard();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_piece_that_cannot_be_brought_to_the_disk_is_not_there_for_the_next_life() {
    let Some(disk) = Thin::of(8 << 20) else { return };
    let source = llama(1).bytes();
    let gguf = parse(&source);
    let all = pieces(&gguf).unwrap();
    let path = piece_path(disk.path(), Piece::Layer(0));
    let filled = || {
        let mut partial = PartialPiece::open(&path, &all, Piece::Layer(0)).unwrap();
        assert!(!partial.is_resumed());
        let tensors: Vec<&Tensor> = partial.tensors().collect();
        for (number, tensor) in tensors.into_iter().enumerate() {
            let bytes = &source[tensor.offset_bytes as usize..][..tensor.size_bytes as usize];
            partial.write(number, 0, bytes).unwrap();
        }
        partial
    };
    disk.exhaust().unwrap();
    let error = filled().finish().unwrap_err().to_string();
    assert!(error.starts_with("syncing "), "{error}");
    disk.relieve().unwrap();
    filled().finish().unwrap();
    let shown = std::fs::read(&path).unwrap();
    forget_cached(disk.path()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), shown);
}
