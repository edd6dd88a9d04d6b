//! The tests find `libllama.so.0` and its companions in the folder above their own executables; DT_RPATH, because
//! only that is also searched for the libraries that those libraries need.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN,-rpath,$ORIGIN/..");
}
