use super::*;

fn figures() -> Figures {
    Figures {
        name: "m".to_owned(),
        layer_weight_bytes: vec![100, 200],
        layer_active_bytes: vec![],
        embedding_bytes: 7,
        output_bytes: 9,
        embedding_length: 10,
        vocabulary_size: 5,
        kv_elements_per_token_per_layer: 64,
        layer_kv_elements: vec![],
        layer_state_bytes: vec![],
        kv_element: KvElement::F16,
        context_length: 100,
        kv_cells: 0,
        parallel_sequences: 3,
        max_step_rows: 2,
        allowed_cuts: vec![1],
    }
}

#[test]
fn the_cache_holds_every_sequence_at_full_context_in_whole_cells_and_one_more() {
    let model = estimate(&figures()).expect("a model");
    assert_eq!(model.layers[0].kv_bytes, 64 * 2 * 768);
    assert_eq!(model.layers[0].kv_read_bytes, 64 * 2 * 50);
    assert_eq!(model.activation_bytes, 40);
    assert_eq!(model.output_buffer_bytes, 2 * 5 * 8);
}

#[test]
fn a_cache_of_fewer_tokens_is_reckoned_by_its_own_size() {
    let model = estimate(&Figures {
        kv_cells: 200,
        ..figures()
    })
    .expect("a model");
    assert_eq!(model.layers[0].kv_bytes, 64 * 2 * 512);
}

#[test]
fn a_token_reads_what_is_said_of_a_layer_and_never_more_than_the_layer_has() {
    let active = |layer_active_bytes: &[u64]| {
        estimate(&Figures {
            layer_active_bytes: layer_active_bytes.to_vec(),
            ..figures()
        })
        .map(|model| model.layers.iter().map(|layer| layer.active_bytes).collect::<Vec<_>>())
    };
    assert_eq!(active(&[]), Ok(vec![100, 200]));
    assert_eq!(active(&[40, 500]), Ok(vec![40, 200]));
    let error = active(&[40]).expect_err("one of two");
    assert!(error.to_string().starts_with("1 layers say"), "{error}");
}

#[test]
fn a_layer_keeps_keys_and_values_of_tokens_or_a_state_of_each_sequence_and_of_the_two_spare_ones() {
    let model = estimate(&Figures {
        layer_kv_elements: vec![64, 0],
        layer_state_bytes: vec![0, 1000],
        ..figures()
    })
    .expect("a model");
    assert_eq!(model.layers[0].kv_bytes, 64 * 2 * 768);
    assert_eq!(model.layers[0].kv_read_bytes, 64 * 2 * 50);
    assert_eq!(model.layers[1].kv_bytes, (3 + 2) * 1000);
    assert_eq!(model.layers[1].kv_read_bytes, 2 * 1000, "it is read and written");

    let without = estimate(&figures()).expect("a model");
    let grown = model.compute_buffer_bytes - without.compute_buffer_bytes;
    assert_eq!(
        grown,
        2 * 5 * 1000,
        "all of them are gathered, and computed, layer by layer"
    );

    let longer = estimate(&Figures {
        layer_kv_elements: vec![64, 64],
        layer_state_bytes: vec![0, 1000],
        context_length: 1000,
        ..figures()
    })
    .expect("a model");
    let difference = longer.layers[1].kv_bytes - longer.layers[0].kv_bytes;
    assert_eq!(difference, 5 * 1000, "beside keys and values too, and of any length");
}

#[test]
fn figures_of_some_layers_alone_are_refused() {
    for (figures, told) in [
        (
            Figures {
                layer_kv_elements: vec![64],
                ..figures()
            },
            "1 layers say how many elements of keys and values a token adds, and the model has 2",
        ),
        (
            Figures {
                layer_state_bytes: vec![1, 2, 3],
                ..figures()
            },
            "3 layers say what state they keep, and the model has 2",
        ),
    ] {
        let error = estimate(&figures).expect_err("refused").to_string();
        assert!(error.starts_with(told), "{error}");
    }
}

#[test]
fn the_element_of_the_cache_decides_its_size() {
    let of = |kv_element| {
        estimate(&Figures {
            kv_element,
            ..figures()
        })
        .expect("a model")
        .layers[0]
            .kv_bytes
    };
    assert_eq!(of(KvElement::F32), 2 * of(KvElement::F16));
    assert_eq!(of(KvElement::Q8_0), 68 * 768);
}

#[test]
fn figures_that_describe_no_model_are_refused_with_the_reason() {
    let told = |figures: &Figures| estimate(figures).expect_err("refused").to_string();
    let none = Figures {
        layer_weight_bytes: vec![],
        ..figures()
    };
    assert_eq!(told(&none), "the model has no layers: nothing can be placed");
    let many = Figures {
        layer_weight_bytes: vec![1; 1025],
        ..figures()
    };
    assert!(told(&many).contains("1025 layers and at most 1024"));
    for cut in [0, 2] {
        let outside = Figures {
            allowed_cuts: vec![cut],
            ..figures()
        };
        assert!(told(&outside).contains(&format!("cut {cut} lies outside")));
    }
}

#[test]
fn absurd_figures_saturate_instead_of_wrapping() {
    let absurd = Figures {
        context_length: u64::MAX,
        parallel_sequences: u64::MAX,
        kv_elements_per_token_per_layer: u64::MAX,
        layer_state_bytes: vec![u64::MAX; 2],
        embedding_length: u64::MAX,
        vocabulary_size: u64::MAX,
        max_step_rows: u64::MAX,
        ..figures()
    };
    let model = estimate(&absurd).expect("a model");
    assert_eq!(model.layers[0].kv_bytes, u64::MAX);
    assert_eq!(model.compute_buffer_bytes, u64::MAX);
}
