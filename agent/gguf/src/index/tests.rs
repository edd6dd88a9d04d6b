use std::fs;
use std::io::Cursor;

use super::*;
use crate::cache::write_piece;
use crate::fixture::{Model, llama, parse};
use crate::piece::pieces;
use crate::value::Value;

fn index_of(model: &Model) -> Index {
    let bytes = model.bytes();
    let gguf = parse(&bytes);
    index(&mut Cursor::new(bytes), &pieces(&gguf).unwrap()).unwrap()
}

#[test]
fn the_same_weights_have_the_same_digests_wherever_they_lie() {
    let model = llama(3).untied().with_rotary_factors();
    let plain = index_of(&model);
    // A longer header moves the weights in the file.
    let moved = index_of(&model.with("general.description", Value::string(&"x".repeat(5000))));
    assert_eq!(plain, moved);
}

#[test]
fn every_byte_of_a_weight_counts() {
    let bytes = llama(2).bytes();
    let gguf = parse(&bytes);
    let pieces = pieces(&gguf).unwrap();
    let good = index(&mut Cursor::new(&bytes), &pieces).unwrap();
    let tensor = gguf.tensor("blk.1.ffn_up.weight").unwrap();
    for place in [0, 60, 119] {
        let mut bad = bytes.clone();
        bad[tensor.offset_bytes as usize + place] ^= 1;
        let found = index(&mut Cursor::new(bad), &pieces).unwrap();
        assert_ne!(found.layers[1], good.layers[1]);
        assert_eq!(
            (found.embedding, found.layers[0], found.output),
            (good.embedding, good.layers[0], good.output)
        );
        assert_ne!(found.stage_root(1, 2), good.stage_root(1, 2));
        assert_eq!(found.stage_root(0, 1), good.stage_root(0, 1));
    }
}

#[test]
fn hyperparameters_and_rotary_factors_are_in_every_digest() {
    let plain = index_of(&llama(2));
    let scaled = index_of(&llama(2).with("llama.rope.scaling.factor", Value::F32(2.0)));
    let factors = index_of(&llama(2).with_rotary_factors());
    for other in [scaled, factors] {
        assert_ne!(plain.embedding, other.embedding);
        assert_ne!(plain.layers[1], other.layers[1]);
        assert_ne!(plain.output, other.output);
    }
}

#[test]
fn pieces_with_equal_weights_differ_by_kind_and_place() {
    let frame = Digest([7; 32]);
    let digest = |piece| piece_digest(&frame, piece, &[]);
    let digests = [
        digest(Piece::Embedding),
        digest(Piece::Output),
        digest(Piece::Layer(0)),
        digest(Piece::Layer(1)),
    ];
    for (place, one) in digests.iter().enumerate() {
        assert!(!digests[..place].contains(one));
    }
}

#[test]
fn roots_depend_on_number_and_order_of_pieces() {
    let leaf = |byte| Digest([byte; 32]);
    let roots = [
        stage_root([]),
        stage_root([leaf(1)]),
        stage_root([leaf(1), leaf(2)]),
        stage_root([leaf(2), leaf(1)]),
        stage_root([leaf(1), leaf(2), leaf(3)]),
        stage_root([leaf(1), leaf(2), leaf(3), leaf(3)]),
        stage_root([leaf(1), leaf(1)]),
    ];
    for (place, one) in roots.iter().enumerate() {
        assert!(!roots[..place].contains(one), "{place}");
    }
    // The documented construction, written out.
    let hash = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
    let leaves: Vec<[u8; 32]> = (1..=3u8)
        .map(|byte| hash(&[b"shardwright.weights.leaf.v1\0", &[byte; 32]]))
        .collect();
    let pair = hash(&[b"shardwright.weights.node.v1\0", &leaves[0], &leaves[1]]);
    let top = hash(&[b"shardwright.weights.node.v1\0", &pair, &leaves[2]]);
    let root = hash(&[b"shardwright.weights.root.v1\0", &3u64.to_le_bytes(), &top]);
    assert_eq!(stage_root([leaf(1), leaf(2), leaf(3)]), Digest(root));
}

#[test]
fn a_stage_counts_the_embedding_for_the_head_and_the_output_for_the_tail() {
    let index = index_of(&llama(3));
    let layers = &index.layers;
    assert_eq!(index.stage_root(0, 1), Some(stage_root([index.embedding, layers[0]])));
    assert_eq!(index.stage_root(1, 2), Some(stage_root([layers[1]])));
    assert_eq!(
        index.stage_root(1, 3),
        Some(stage_root([layers[1], layers[2], index.output]))
    );
    for (first, end) in [(0, 4), (1, 1), (2, 1)] {
        assert_eq!(index.stage_root(first, end), None, "{first} {end}");
    }
}

#[test]
fn cached_files_are_verified_whatever_their_headers_say() {
    let bytes = llama(2).untied().with_rotary_factors().bytes();
    let gguf = parse(&bytes);
    let pieces = pieces(&gguf).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for piece in pieces.all() {
        write_piece(&mut Cursor::new(&bytes), &pieces, piece, &piece_path(at, piece)).unwrap();
    }
    let expected = index(&mut Cursor::new(&bytes), &pieces).unwrap();
    let weights = CachedWeights::new(at, &pieces).unwrap();
    weights.verify(Piece::Embedding, &expected.embedding).unwrap();
    weights.verify(Piece::Layer(1), &expected.layers[1]).unwrap();
    weights.verify(Piece::Output, &expected.output).unwrap();
    assert_eq!(weights.stage_root(0, 2).unwrap(), expected.stage_root(0, 2).unwrap());

    let path = piece_path(at, Piece::Layer(1));
    let mut file = fs::read(&path).unwrap();
    file[100] ^= 0xff;
    fs::write(&path, &file).unwrap();
    weights.verify(Piece::Layer(1), &expected.layers[1]).unwrap();
    let (_, place) = places(&pieces, Piece::Layer(1))[1];
    file[place as usize] ^= 1;
    fs::write(&path, &file).unwrap();
    let error = weights.verify(Piece::Layer(1), &expected.layers[1]).unwrap_err();
    assert!(
        matches!(
            error,
            IndexError::Mismatch {
                piece: Piece::Layer(1),
                ..
            }
        ),
        "{error}"
    );
    let source = super::build(&mut [Cursor::new(&bytes)], &gguf, &["tiny.gguf".to_owned()]).unwrap();
    let bad = super::damaged_tensors(at, &pieces, Piece::Layer(1), &source).unwrap();
    assert_eq!(bad, ["blk.1.ffn_up.weight"]);
    assert!(
        super::damaged_tensors(at, &pieces, Piece::Output, &source)
            .unwrap()
            .is_empty()
    );
    fs::write(&path, &file[..4096]).unwrap();
    assert!(matches!(weights.digest(Piece::Layer(1)), Err(IndexError::Io { .. })));
}

#[test]
fn a_range_that_is_no_slice_has_no_root_and_is_refused_by_its_layers() {
    let bytes = llama(2).bytes();
    let gguf = parse(&bytes);
    let pieces = pieces(&gguf).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = piece_path(directory.path(), Piece::Shared);
    write_piece(&mut Cursor::new(&bytes), &pieces, Piece::Shared, &path).unwrap();
    let weights = CachedWeights::new(directory.path(), &pieces).unwrap();
    let error = weights.stage_root(2, 1).unwrap_err();
    assert!(
        matches!(&error, IndexError::Slice(SliceError::OutOfRange { .. })),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "layers 2 to 1 (exclusive) are no range of a model with 2 layers"
    );
}

#[test]
fn digests_are_shown_and_read_as_hexadecimal() {
    let digest = file_digest(&mut &b"abc"[..]).unwrap();
    let shown = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest.to_string(), shown);
    assert_eq!(shown.parse(), Ok(digest));
    assert_eq!(Digest::try_from(&digest.0[..]), Ok(digest));
    for bad in ["", "ba", &shown[1..], &shown.replace('b', "g"), &"ä".repeat(32)] {
        assert_eq!(bad.parse::<Digest>(), Err(NoDigest), "{bad}");
    }
    assert_eq!(Digest::try_from(&[0u8; 31][..]), Err(NoDigest));
}
