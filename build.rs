//! Compiles `proto/` into Rust, without protoc, and keeps the descriptors for gRPC reflection.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let mut files: Vec<PathBuf> = std::fs::read_dir("proto/ballast/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = std::env::var("OUT_DIR")?;
    // Comments stay in the descriptors that reflection serves: `grpcurl describe` shows them.
    std::fs::write(
        Path::new(&out).join("ballast.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .codec_path("crate::rpc::codec::Codec")
        // A member takes 16 bytes in a vector, whatever it is: 8 MiB of empty ones cannot become a gigabyte.
        .boxed(".ballast.v1.OperationRequest.request.debit")
        .boxed(".ballast.v1.OperationRequest.request.credit")
        .boxed(".ballast.v1.OperationRequest.request.transfer")
        .boxed(".ballast.v1.OperationRequest.request.post")
        .boxed(".ballast.v1.OperationRequest.request.reverse")
        .compile_fds(descriptors)?;
    Ok(())
}
