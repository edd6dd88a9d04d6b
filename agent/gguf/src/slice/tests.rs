use super::*;
use crate::fixture::{TOKENS, WIDTH, llama, parse};
use crate::parse::Gguf;
use crate::piece::pieces;

fn plan_of<'a>(pieces: &'a Pieces<'a>, first: u32, end: u32) -> SlicePlan<'a> {
    SlicePlan::new(pieces, first, end).unwrap()
}

fn tensor_names(gguf: &Gguf) -> Vec<&str> {
    gguf.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

/// The names that the loader meets in a slice's files, in order.
fn all_names(plan: &SlicePlan<'_>, pieces: &Pieces<'_>) -> Vec<String> {
    let mut names: Vec<String> = tensor_names(&parse(&plan.first_file()))
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (number, part) in (1u16..).zip(plan.parts()) {
        let mut file = plan.part_header(part, number).unwrap();
        file.resize(file_bytes(pieces, part) as usize, 0);
        let part_file = parse(&file);
        assert_eq!(part_file.metadata.get("split.no"), Some(&Value::U16(number)));
        names.extend(part_file.tensors.into_iter().map(|tensor| tensor.name));
    }
    names
}

#[test]
fn a_middle_slice_has_its_own_numbering_and_no_vocabulary() {
    let source = llama(6)
        .untied()
        .with_rotary_factors()
        .with_kv_heads(&[1, 2, 3, 4, 5, 6])
        .gguf();
    let pieces = pieces(&source).unwrap();
    let plan = plan_of(&pieces, 2, 4);
    let first = parse(&plan.first_file());
    let metadata = &first.metadata;
    assert_eq!(metadata.u32("llama.block_count"), Ok(2));
    assert_eq!(metadata.u32("llama.vocab_size"), Ok(1));
    assert_eq!(metadata.string("tokenizer.ggml.model"), Ok("none"));
    assert!(metadata.get("tokenizer.ggml.tokens").is_none());
    let heads = metadata.array("llama.attention.head_count_kv").unwrap();
    assert_eq!(heads.values().collect::<Vec<_>>(), [Value::U32(3), Value::U32(4)]);
    assert_eq!(metadata.get("llama.rope.freq_base"), Some(&Value::F32(10_000.0)));

    // The types matter: llama.cpp refuses others.
    assert_eq!(metadata.get("split.no"), Some(&Value::U16(0)));
    assert_eq!(metadata.get("split.count"), Some(&Value::U16(4)));
    assert_eq!(metadata.get("split.tensors.count"), Some(&Value::I32(7)));
    assert_eq!(
        first.tensor("token_embd.weight").unwrap().dimensions,
        [u64::from(WIDTH), 1]
    );
    assert_eq!(
        all_names(&plan, &pieces),
        [
            "token_embd.weight",
            "output_norm.weight",
            "rope_freqs.weight",
            "blk.0.attn_norm.weight",
            "blk.0.ffn_up.weight",
            "blk.1.attn_norm.weight",
            "blk.1.ffn_up.weight",
        ]
    );
}

#[test]
fn the_tensors_that_satisfy_the_loader_are_zeros_and_ones() {
    let source = llama(3).gguf();
    let pieces = pieces(&source).unwrap();
    let file = plan_of(&pieces, 0, 2).first_file();
    let first = parse(&file);
    let floats = |name: &str| -> Vec<f32> {
        let tensor = first.tensor(name).unwrap();
        let range = tensor.offset_bytes as usize..(tensor.offset_bytes + tensor.size_bytes) as usize;
        file[range]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    };
    assert_eq!(floats("token_embd.weight"), vec![0.0; WIDTH as usize]);
    assert_eq!(floats("output_norm.weight"), vec![1.0; WIDTH as usize]);
}

#[test]
fn a_tail_has_the_vocabulary_and_the_output_matrix_as_its_embedding() {
    for model in [llama(4), llama(4).untied()] {
        let source = model.gguf();
        let pieces = pieces(&source).unwrap();
        let plan = plan_of(&pieces, 3, 4);
        let first = parse(&plan.first_file());
        assert_eq!(
            first.metadata.array("tokenizer.ggml.tokens").unwrap().len(),
            u64::from(TOKENS)
        );
        assert_eq!(first.metadata.u32("llama.vocab_size"), Ok(TOKENS));
        assert_eq!(first.metadata.u32("llama.block_count"), Ok(1));
        assert!(first.tensors.is_empty());
        let mut names = all_names(&plan, &pieces);
        names.sort();
        assert_eq!(
            names,
            [
                "blk.0.attn_norm.weight",
                "blk.0.ffn_up.weight",
                "output_norm.weight",
                "token_embd.weight"
            ]
        );
    }
}

#[test]
fn the_whole_model_as_a_slice_says_what_the_source_says() {
    for model in [
        llama(3),
        llama(3).untied().with_rotary_factors(),
        llama(3).of("qwen3").untied(),
    ] {
        let source = model.with("general.alignment", Value::U32(32)).gguf();
        let pieces = pieces(&source).unwrap();
        let plan = plan_of(&pieces, 0, 3);
        assert!(plan.is_head() && plan.is_tail() && plan.is_whole());
        let mut names = all_names(&plan, &pieces);
        let mut expected: Vec<String> = source.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        let first = parse(&plan.first_file());
        for (key, value) in source.metadata.iter().filter(|(key, _)| *key != "general.alignment") {
            assert_eq!(first.metadata.get(key), Some(value), "{key}");
        }
        assert_eq!(
            first.metadata.get("split.tensors.count"),
            Some(&Value::I32(source.tensors.len() as i32))
        );
    }
}

#[test]
fn a_header_takes_the_same_room_in_every_slice() {
    let source = llama(120).untied().gguf();
    let pieces = pieces(&source).unwrap();
    for (first, end) in [(0, 120), (0, 110), (105, 120), (109, 110), (1, 111)] {
        let plan = plan_of(&pieces, first, end);
        for (number, part) in (1u16..).zip(plan.parts()) {
            let header = plan.part_header(part, number).unwrap();
            assert_eq!(header.len(), header_bytes(&pieces, part));
            assert_eq!(header.len() % HEADER_UNIT_BYTES, 0);
        }
    }
    let kept = source_header(&pieces, Piece::Layer(109)).unwrap();
    assert_eq!(kept.len(), header_bytes(&pieces, Piece::Layer(109)));
}

#[test]
fn names_that_outgrow_the_room_of_their_header_are_an_error_with_both_lengths() {
    let source = llama(1).gguf();
    let pieces = pieces(&source).unwrap();
    let piece = Piece::Layer(0);
    let room = header_bytes(&pieces, piece);
    let error = piece_header(&pieces, piece, 1, |tensor| tensor.name.repeat(HEADER_UNIT_BYTES)).unwrap_err();
    assert!(
        matches!(&error, SliceError::Header(header) if header.room == room && header.needed > room),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with(&format!("into the {room} bytes kept for it")),
        "{error}"
    );
}

#[test]
fn needs_and_parts_follow_the_place_in_the_pipeline() {
    let source = llama(3).untied().gguf();
    let pieces = pieces(&source).unwrap();
    let head = plan_of(&pieces, 0, 1);
    assert_eq!(head.needs(), [Piece::Shared, Piece::Embedding, Piece::Layer(0)]);
    assert_eq!(head.parts(), [Piece::Layer(0)]);
    let tail = plan_of(&pieces, 1, 3);
    assert_eq!(
        tail.needs(),
        [Piece::Shared, Piece::Layer(1), Piece::Layer(2), Piece::Output]
    );
    assert_eq!(tail.parts(), [Piece::Layer(1), Piece::Layer(2), Piece::Output]);
    assert_eq!(tail.weight_bytes(), 2 * (256 + 120) + 256 + 200);
    let whole = plan_of(&pieces, 0, 3);
    assert_eq!(whole.parts().first(), Some(&Piece::Embedding));
}

#[test]
fn layers_that_are_no_slice_are_refused() {
    let source = llama(3).gguf();
    let pieces_of_llama = pieces(&source).unwrap();
    for (first, end) in [(0, 0), (2, 1), (0, 4), (3, 3), (4, 5), (u32::MAX, 0)] {
        let error = SlicePlan::new(&pieces_of_llama, first, end).unwrap_err();
        assert!(
            matches!(error, SliceError::OutOfRange { layers: 3, .. }),
            "{first} {end}: {error}"
        );
    }
    let source = llama(3).of("glm4").gguf();
    let pieces_of_glm = pieces(&source).unwrap();
    let error = SlicePlan::new(&pieces_of_glm, 0, 2).unwrap_err();
    assert!(matches!(error, SliceError::RunsWhole { cut: 2, .. }), "{error}");
    let error = SlicePlan::new(&pieces_of_glm, 1, 3).unwrap_err();
    assert!(error.to_string().contains("after layer 1"), "{error}");
    let source = llama(8).of("smollm3").gguf();
    let pieces_of_smollm = pieces(&source).unwrap();
    assert!(SlicePlan::new(&pieces_of_smollm, 4, 8).is_ok());
    for (first, end) in [(0, 3), (3, 8), (4, 7), (2, 4)] {
        let error = SlicePlan::new(&pieces_of_smollm, first, end).unwrap_err();
        assert!(matches!(error, SliceError::CutNotAllowed { .. }), "{error}");
        assert!(error.to_string().contains("only after layers [4]"), "{error}");
    }
}

/// The metadata of layers `first..end` of a model.
fn described(model: &crate::fixture::Model, first: u32, end: u32) -> crate::Metadata {
    let source = model.gguf();
    let pieces = pieces(&source).unwrap();
    parse(&plan_of(&pieces, first, end).first_file()).metadata
}

#[test]
fn windows_are_written_out_layer_by_layer() {
    const KEY: &str = "gemma2.attention.sliding_window_pattern";
    let windows = |model: &crate::fixture::Model, first, end| -> Vec<bool> {
        let metadata = described(model, first, end);
        let array = metadata.array(KEY).unwrap();
        array.values().filter_map(|value| value.as_bool()).collect()
    };
    let usual = llama(6).of("gemma2");
    assert_eq!(windows(&usual, 0, 2), [true, false]);
    assert_eq!(windows(&usual, 2, 6), [true, false, true, false]);
    let stated = llama(6).of("gemma2").with(KEY, Value::U32(3));
    assert_eq!(windows(&stated, 1, 4), [true, false, true]);
    let listed = [true, true, true, false, true, true];
    let listed = llama(6)
        .of("gemma2")
        .with(KEY, Value::Array(crate::Array::of_bools(listed)));
    assert_eq!(windows(&listed, 2, 5), [true, false, true]);
}

#[test]
fn only_the_head_scales_its_input() {
    let model = llama(4).of("granite").with("granite.embedding_scale", Value::F32(12.0));
    for (layers, scale) in [((0, 2), 12.0), ((1, 3), 0.0), ((2, 4), 0.0), ((0, 4), 12.0)] {
        let metadata = described(&model, layers.0, layers.1);
        assert_eq!(
            metadata.get("granite.embedding_scale"),
            Some(&Value::F32(scale)),
            "{layers:?}"
        );
    }
}

#[test]
fn leading_dense_layers_are_counted_from_the_slices_own_first() {
    const KEY: &str = "deepseek.leading_dense_block_count";
    let model = llama(6).of("deepseek").with(KEY, Value::U32(3));
    for (layers, dense) in [((0, 2), 3), ((1, 4), 2), ((3, 6), 0), ((5, 6), 0)] {
        assert_eq!(described(&model, layers.0, layers.1).u32(KEY), Ok(dense), "{layers:?}");
    }
}

#[test]
fn a_tail_that_must_have_both_matrices_loads_both() {
    let source = llama(3).of("olmo2").untied().gguf();
    let pieces = pieces(&source).unwrap();
    let tail = plan_of(&pieces, 1, 3);
    assert_eq!(
        tail.needs(),
        [
            Piece::Shared,
            Piece::Embedding,
            Piece::Layer(1),
            Piece::Layer(2),
            Piece::Output
        ]
    );
    assert_eq!(tail.rooted(), [Piece::Layer(1), Piece::Layer(2), Piece::Output]);
    let names = all_names(&tail, &pieces);
    assert!(names.contains(&"output.weight".to_owned()) && names.contains(&"token_embd.weight".to_owned()));
    let middle = parse(&plan_of(&pieces, 1, 2).first_file());
    assert_eq!(
        middle.tensor("output.weight").unwrap().dimensions,
        [u64::from(WIDTH), 1]
    );
}

#[test]
fn stand_ins_are_what_the_loader_of_the_architecture_demands() {
    let stand_ins = |name: &'static str| {
        let source = llama(3).of(name).untied().gguf();
        let pieces = pieces(&source).unwrap();
        let first = parse(&plan_of(&pieces, 0, 1).first_file());
        tensor_names(&first).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(stand_ins("qwen3"), ["token_embd.weight", "output_norm.weight"]);
    assert_eq!(
        stand_ins("starcoder2"),
        ["token_embd.weight", "output_norm.weight", "output_norm.bias"]
    );
    assert_eq!(
        stand_ins("phi2"),
        [
            "token_embd.weight",
            "output_norm.weight",
            "output_norm.bias",
            "output.weight",
            "output.bias"
        ]
    );
}
