use super::*;
use naga::back::spv;

/// Written anew when this is set, as a person does after changing the source.
const REWRITE: &str = "SHARDWRIGHT_REWRITE_KERNELS";

fn compiled(number: &str) -> Vec<u8> {
    let mut source = include_str!("../product.wgsl").replace("NUMBER", number);
    if number == "f16" {
        source.insert_str(0, "enable f16;\n");
    }
    let module = naga::front::wgsl::parse_str(&source).unwrap();
    let capabilities = naga::valid::Capabilities::SHADER_FLOAT16;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap();
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        // Every number is written before it is read.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None).unwrap();
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn the_compiled_kernels_are_those_of_the_source() {
    for (number, file, committed) in [
        ("f32", "product.spv", PRODUCT),
        ("f16", "product_half.spv", PRODUCT_HALF),
    ] {
        let fresh = compiled(number);
        if std::env::var_os(REWRITE).is_some() {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/vulkan")
                .join(file);
            std::fs::write(path, &fresh).unwrap();
            continue;
        }
        assert!(
            fresh == committed,
            "{file} is not what product.wgsl compiles to; run this test with {REWRITE}=1 and commit the file"
        );
    }
}
