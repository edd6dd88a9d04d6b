#!/usr/bin/env bash
# Builds one ggml backend module where its vendor's compiler is, from the llama.cpp sources that Cargo.lock pins and with
# the flags of .cargo/config.toml: a module of another version or other flags computes other numbers, or does not load.
#
# Usage: hack/build-backend.sh cuda|hip|sycl|opencl|vulkan [--arch LIST] [--out DIR] [--jobs N] [--configure-only]
#   --arch   cuda: CMAKE_CUDA_ARCHITECTURES, such as "86;90" (none: ggml's usual ones); hip: targets such as "gfx1100"
#   --out    where the module goes; default target/backends
# Result: DIR/libggml-<backend>.so. Workers look for it beside their executable and in $SHARDWRIGHT_BACKEND_DIR.
# Ends with 64 for wrong arguments, 69 where the compiler or the sources are not there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fail() { local code=$1; shift; printf 'build-backend: %s\n' "$*" >&2; exit "$code"; }
usage() { fail 64 "usage: hack/build-backend.sh cuda|hip|sycl|opencl|vulkan [--arch LIST] [--out DIR] [--jobs N] [--configure-only]"; }

[ $# -ge 1 ] || usage
backend=$1; shift
arch='' out=$root/target/backends jobs=$(nproc) configure_only=''
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?}; shift 2 ;;
    --out) out=${2:?}; shift 2 ;;
    --jobs) jobs=${2:?}; shift 2 ;;
    --configure-only) configure_only=yes; shift ;;
    *) usage ;;
  esac
done

need() { command -v "$1" >/dev/null || fail 69 "$1 is missing: $2"; }
flags=()
case $backend in
  cuda)
    PATH=$PATH:${CUDA_PATH:-/usr/local/cuda}/bin
    need nvcc "install NVIDIA's CUDA toolkit, 11.8 or newer, or set CUDA_PATH to where it is"
    flags+=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF)
    [ -z "$arch" ] || flags+=("-DCMAKE_CUDA_ARCHITECTURES=$arch")
    ;;
  hip)
    PATH=$PATH:${ROCM_PATH:-/opt/rocm}/bin
    need hipcc "install AMD's ROCm with its HIP development packages, 6.1 or newer, or set ROCM_PATH to where it is"
    flags+=(-DGGML_HIP=ON)
    [ -z "$arch" ] || flags+=("-DGPU_TARGETS=$arch" "-DAMDGPU_TARGETS=$arch")
    ;;
  sycl)
    need icpx "install Intel's oneAPI base toolkit and source its setvars.sh"
    flags+=(-DGGML_SYCL=ON -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx)
    ;;
  opencl) flags+=(-DGGML_OPENCL=ON) ;;
  vulkan)
    need glslc "install it (package glslc), or run hack/bootstrap.sh"
    flags+=(-DGGML_VULKAN=ON)
    [ -z "${VULKAN_SDK:-}" ] || flags+=("-DCMAKE_PREFIX_PATH=$VULKAN_SDK" "-DVulkan_INCLUDE_DIR=$VULKAN_SDK/include")
    ;;
  *) usage ;;
esac
need cmake "install it by the package manager"

# The version that Cargo pins, wherever Cargo keeps it.
version=$(awk '$0 == "name = \"llama-cpp-sys-2\"" { getline; gsub(/[^0-9.]/, ""); print; exit }' "$root/Cargo.lock")
[ -n "$version" ] || fail 69 "Cargo.lock pins no llama-cpp-sys-2"
find_sources() {
  local found
  for found in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/llama-cpp-sys-2-"$version"/llama.cpp; do
    [ -f "$found/CMakeLists.txt" ] && printf '%s\n' "$found" && return
  done
  return 1
}
sources=$(find_sources) || {
  need cargo "it downloads the pinned sources"
  (cd "$root" && cargo fetch --locked) || fail 69 "the sources of llama-cpp-sys-2 $version cannot be downloaded"
  sources=$(find_sources) || fail 69 "llama-cpp-sys-2 $version came without llama.cpp"
}

# GGML_* of the build, but for the backends that it names.
while read -r name value; do
  case $name in GGML_VULKAN | GGML_RPC) ;; *) flags+=("-D$name=$value") ;; esac
done < <(sed -n 's/^\(GGML_[A-Z0-9_]*\) *= *"\(.*\)".*$/\1 \2/p' "$root/.cargo/config.toml")

build=$root/target/backends/build-$backend-$version
mkdir -p "$build" "$out"
cmake -S "$sources" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_CURL=OFF "${flags[@]}" \
  || fail 69 "ggml's $backend backend cannot be configured here; what is missing is said above"
[ -z "$configure_only" ] || exit 0
cmake --build "$build" --target "ggml-$backend" --parallel "$jobs"
module=$(find "$build" -name "libggml-$backend.so" -type f | head -n 1)
[ -n "$module" ] || fail 70 "the build left no libggml-$backend.so under $build"
install -m 0755 "$module" "$out/.libggml-$backend.so.$$"
mv "$out/.libggml-$backend.so.$$" "$out/libggml-$backend.so"
printf '%s\n' "$out/libggml-$backend.so"
