//! AMD's cards: by HIP with libraries that answer from a script, and by the kernel's files alone.

#[path = "amd/described.rs"]
mod described;
#[path = "amd/kernels.rs"]
mod kernels;
mod scene;
#[path = "amd/scripted.rs"]
mod scripted;
