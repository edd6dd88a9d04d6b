use std::io::Cursor;

use super::*;
use crate::cache::write_piece;
use crate::fixture::{llama, parse};

fn pool(layers: u32) -> (tempfile::TempDir, Gguf) {
    let directory = tempfile::tempdir().unwrap();
    let source = llama(layers).untied().with_rotary_factors().bytes();
    let gguf = parse(&source);
    let all = pieces(&gguf).unwrap();
    for piece in all.all() {
        write_piece(
            &mut Cursor::new(&source),
            &all,
            piece,
            &piece_path(directory.path(), piece),
        )
        .unwrap();
    }
    (directory, gguf)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Every part says the slice's own number and names.
fn check(files: &SliceFiles) {
    for (number, path) in files.splits().iter().enumerate() {
        let file = Gguf::open(path).unwrap();
        assert_eq!(file.metadata.u32("split.no"), Ok(number as u32), "{}", path.display());
    }
}

#[test]
fn a_slice_alone_has_no_copy_of_any_weight() {
    let (pool, gguf) = pool(4);
    let at = pool.path();
    let files = link_slice(at, &at.join("one"), &gguf, 1, 3).unwrap();
    check(&files);
    for part in &files.parts {
        assert_eq!(inode(part), inode(&at.join(part.file_name().unwrap())));
    }
    let again = link_slice(at, &at.join("one"), &gguf, 2, 4).unwrap();
    check(&again);
    for part in &again.parts {
        assert_eq!(inode(part), inode(&at.join(part.file_name().unwrap())));
    }
}

#[test]
fn a_head_has_the_embedding_beside_its_parts_and_a_whole_model_among_them() {
    let (pool, gguf) = pool(3);
    let at = pool.path();
    for (end, among) in [(2, false), (3, true)] {
        let files = link_slice(at, &at.join("one"), &gguf, 0, end).unwrap();
        check(&files);
        let embedding = files.embedding.unwrap();
        assert_eq!(files.parts.contains(&embedding), among, "{end} layers");
        assert!(Gguf::open(&embedding).unwrap().tensor("token_embd.weight").is_some());
    }
    assert_eq!(link_slice(at, &at.join("one"), &gguf, 1, 3).unwrap().embedding, None);
}

#[test]
fn two_slices_that_overlap_both_stay_whole_and_only_the_overlap_is_copied() {
    let (pool, gguf) = pool(5);
    let at = pool.path();
    let first = link_slice(at, &at.join("one"), &gguf, 0, 3).unwrap();
    let second = link_slice(at, &at.join("two"), &gguf, 2, 5).unwrap();
    check(&first);
    check(&second);
    let shared = |files: &SliceFiles, name: &str| {
        let part = files.parts.iter().find(|part| part.ends_with(name)).unwrap();
        inode(part) == inode(&at.join(name))
    };
    assert!(shared(&first, "layer-00002.gguf") && !shared(&second, "layer-00002.gguf"));
    assert!(shared(&second, "layer-00004.gguf"));
    fs::remove_dir_all(at.join("one")).unwrap();
    let alone = link_slice(at, &at.join("two"), &gguf, 2, 5).unwrap();
    assert!(shared(&alone, "layer-00002.gguf"));
    check(&alone);
}

#[test]
fn replicas_with_the_same_cut_share_every_weight() {
    let (pool, gguf) = pool(4);
    let at = pool.path();
    let first = link_slice(at, &at.join("one"), &gguf, 1, 4).unwrap();
    let second = link_slice(at, &at.join("two"), &gguf, 1, 4).unwrap();
    for (one, two) in first.parts.iter().zip(&second.parts) {
        assert_eq!(inode(one), inode(two));
    }
    check(&first);
    check(&second);
}

#[test]
fn a_piece_that_is_missing_is_named_and_nothing_is_made() {
    let (pool, gguf) = pool(3);
    fs::remove_file(pool.path().join("layer-00001.gguf")).unwrap();
    let error = link_slice(pool.path(), &pool.path().join("one"), &gguf, 0, 2).unwrap_err();
    assert!(error.to_string().contains("layer 1"), "{error}");
    assert!(!pool.path().join("one").exists());
}
