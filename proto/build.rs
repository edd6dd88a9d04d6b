//! Generates the Rust side of the protocol; protox stands in for protoc, so that no C++ tool is needed.

const FILES: [&str; 9] = [
    "shardwright/placement/v1/placement.proto",
    "shardwright/control/v1/enrolment.proto",
    "shardwright/control/v1/trust.proto",
    "shardwright/control/v1/agent.proto",
    "shardwright/control/v1/routes.proto",
    "shardwright/control/v1/weights.proto",
    "shardwright/control/v1/links.proto",
    "shardwright/shard/v1/shard.proto",
    "kubelet/podresources.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=shardwright");
    println!("cargo:rerun-if-changed=kubelet");
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".shardwright.shard.v1.Step.activations")
        .bytes(".shardwright.control.v1.LinkPayload.data")
        // Written by hand: it holds secrets.
        .skip_debug([".shardwright.control.v1.SourceAccess"])
        .compile_fds(descriptors)?;
    Ok(())
}
