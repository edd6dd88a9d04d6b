use std::fs;
use std::io::Cursor;

use super::*;
use crate::fixture::llama;
use crate::fixture::split::{Part, split};
use crate::index::{CachedWeights, IndexBuilder, build, index};
use crate::piece::{PieceError, pieces};
use crate::source::SourceFiles;
use crate::value::Value;

const NAME: &str = "tiny-00001-of-00003.gguf";

fn model() -> Vec<u8> {
    llama(5).untied().with_rotary_factors().bytes()
}

fn merged(parts: &[Part]) -> Result<Gguf, SplitError> {
    let mut headers: Vec<Gguf> = parts.iter().map(Part::gguf).collect();
    let first = headers.remove(0);
    Gguf::merge(first, headers)
}

#[test]
fn a_name_tells_the_names_of_all_parts() {
    let name = SplitName::parse("Big-Model-Q4_K_M-00002-of-00012.gguf").unwrap();
    assert_eq!((name.number(), name.count()), (2, 12));
    assert_eq!(name.file(1), "Big-Model-Q4_K_M-00001-of-00012.gguf");
    for other in [
        "model.gguf",
        "model-0001-of-0003.gguf",
        "model-00000-of-00003.gguf",
        "model-00004-of-00003.gguf",
        "model-+0001-of-00003.gguf",
        "model-00001-of-00003.gguf.part",
        "00001-of-00003.gguf",
    ] {
        assert_eq!(SplitName::parse(other), None, "{other}");
    }
}

#[test]
fn a_split_model_is_the_same_model() {
    let whole = model();
    let parts = split(&whole, 3);
    let joined = merged(&parts).unwrap();
    let single = crate::fixture::parse(&whole);
    assert_eq!(joined.files.len(), 3);
    assert_eq!(
        joined.total_bytes(),
        parts.iter().map(|part| part.bytes().len() as u64).sum::<u64>()
    );
    assert_eq!(joined.tensors.len(), single.tensors.len());
    assert_eq!(joined.tensor("output.weight").unwrap().file, 2);
    let one = index(&mut Cursor::new(&whole), &pieces(&single).unwrap()).unwrap();
    let mut sources = SourceFiles(parts.iter().map(|part| Cursor::new(part.bytes())).collect());
    let other = index(&mut sources, &pieces(&joined).unwrap()).unwrap();
    assert_eq!(one, other);
}

#[test]
fn a_part_alone_is_no_model_and_names_the_first() {
    let parts = split(&model(), 3);
    let headers: Vec<Gguf> = parts.iter().map(Part::gguf).collect();
    assert_eq!(
        file_names(NAME, &headers[0]).unwrap(),
        [NAME, "tiny-00002-of-00003.gguf", "tiny-00003-of-00003.gguf"]
    );
    let error = file_names("tiny-00002-of-00003.gguf", &headers[1]).unwrap_err();
    assert!(
        error.to_string().contains("part 2 of 3") && error.to_string().contains(NAME),
        "{error}"
    );
    let error = file_names("renamed.gguf", &headers[1]).unwrap_err();
    assert!(error.to_string().contains("-00001-of-00003.gguf"), "{error}");
    let error = file_names("renamed.gguf", &headers[0]).unwrap_err();
    assert!(matches!(error, SplitError::Misnamed { count: 3, .. }), "{error}");
    assert!(matches!(pieces(&headers[0]), Err(PieceError::ManyFiles { count: 3 })));
    let single = llama(1).gguf();
    assert_eq!(file_names(NAME, &single).unwrap(), [NAME]);
}

#[test]
fn parts_that_are_no_set_are_refused() {
    let parts = || split(&model(), 3);
    let refused = |change: &dyn Fn(&mut Vec<Part>), words: &str| {
        let mut set = parts();
        change(&mut set);
        let error = merged(&set).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|set| drop(set.pop()), "has 3 files, 2 were given");
    refused(&|set| set.push(parts().pop().unwrap()), "has 3 files, 4 were given");
    refused(&|set| set.swap(1, 2), "part 2 states 2 for `split.no` where 1");
    refused(&|set| set[2] = parts().swap_remove(1), "part 3 states 1 for `split.no`");
    refused(
        &|set| set[1].set("split.count", Some(Value::U16(4))),
        "part 2 states 4 for `split.count` where 3",
    );
    refused(
        &|set| set[1].set("split.no", None),
        "part 2 of the model: the model's metadata has no key `split.no`; convert the model again",
    );
    refused(
        &|set| set[2].set("split.count", Some(Value::string("3"))),
        "part 3 of the model: the metadata key `split.count` holds String where a number",
    );
    refused(
        &|set| set[0].set("split.count", Some(Value::U16(10_000))),
        "more than the 1024",
    );
    refused(
        &|set| set[0].set("split.count", Some(Value::string("3"))),
        "part 1 of the model",
    );
    refused(
        &|set| {
            set[2].tensors.pop();
        },
        "`split.tensors.count` says 14",
    );
    refused(
        &|set| {
            let tensor = set[0].tensors[1].clone();
            set[2].tensors.pop();
            set[2].tensors.push(tensor);
        },
        "is in part 1 and in part 3",
    );
    refused(
        &|set| set[1].set("general.architecture", Some(Value::string("qwen3"))),
        "part 2 has another `general.architecture`",
    );
    refused(
        &|set| {
            let other = split(&llama(8).bytes(), 3);
            set[1] = other.into_iter().nth(1).unwrap();
        },
        "part 2 states 18 for `split.tensors.count` where 14",
    );
    // As many tensors in all: only their names tell the models apart.
    refused(
        &|set| {
            let other = split(&llama(6).bytes(), 3);
            set[1] = other.into_iter().nth(1).unwrap();
        },
        "is in part 2 and in part 3",
    );
}

#[test]
fn a_set_on_disk_is_opened_by_its_first_file_and_cached_by_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let parts = split(&model(), 3);
    for (number, part) in (1..).zip(&parts) {
        let name = format!("tiny-{number:05}-of-00003.gguf");
        fs::write(directory.path().join(name), part.bytes()).unwrap();
    }
    let set = FileSet::open(&directory.path().join(NAME)).unwrap();
    assert_eq!(set.names.len(), 3);
    let mut files: Vec<_> = set.paths.iter().map(|path| fs::File::open(path).unwrap()).collect();
    let built = build(&mut files, &set.gguf, &set.names).unwrap();
    let mut builder = IndexBuilder::new(&set.gguf, &set.names).unwrap();
    for part in &parts {
        part.bytes().chunks(7).for_each(|chunk| builder.update(chunk).unwrap());
    }
    assert_eq!(builder.finish().unwrap(), built);
    let headers: Vec<Vec<u8>> = parts
        .iter()
        .zip(built.files())
        .map(|(part, file)| part.bytes()[..file.header_bytes as usize].to_vec())
        .collect();
    assert_eq!(built.read_headers(&headers).unwrap(), set.gguf);

    fs::remove_file(directory.path().join("tiny-00003-of-00003.gguf")).unwrap();
    let error = FileSet::open(&directory.path().join(NAME)).unwrap_err();
    assert!(error.to_string().contains("tiny-00003-of-00003.gguf"), "{error}");
    let error = FileSet::open(&directory.path().join("tiny-00002-of-00003.gguf")).unwrap_err();
    assert!(matches!(error, SplitError::NotFirst { .. }), "{error}");
    let single = crate::fixture::parse(&model());
    let shared = pieces(&single).unwrap();
    assert!(CachedWeights::new(directory.path(), &shared).is_err());
}

#[test]
fn parts_that_state_impossible_sizes_are_refused_before_anything_is_added_up() {
    let mut parts = split(&model(), 3).into_iter().map(|part| part.gguf());
    let first = parts.next().unwrap();
    let mut others: Vec<_> = parts.collect();
    for part in &mut others {
        part.files[0].bytes = 1 << 62;
    }
    let error = Gguf::merge(first, others).unwrap_err();
    assert!(matches!(error, SplitError::TooLarge), "{error}");
}
