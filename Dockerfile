# syntax=docker/dockerfile:1
# One image for operator, agent, workers and gateway: the executables of `make build`, with the same profile and flags.
#
#   docker build -t shardwright:0.1.0 .

ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-${DEBIAN} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG RUST_VERSION
# The toolchain of the base image, without the components that only development needs.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION} \
    SHARDWRIGHT_CACHE=/var/cache/shardwright
WORKDIR /src
# Compilers and Vulkan headers by the same script that developers use; a layer of its own, as it rarely changes.
COPY hack/bootstrap.sh hack/bootstrap.sh
RUN hack/bootstrap.sh packages vulkan
COPY . .
# Caches belong to the builder: what the image needs is copied out of them in the same step. Named are the packages of the image:
# others switch features on that only tests need.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    VULKAN_SDK="$(echo "$SHARDWRIGHT_CACHE"/vulkan-sdk-*)" cargo build --bins --locked -p operator -p gateway -p agent -p worker -p engine \
    && install -D -t /opt/shardwright \
        target/debug/shardwright-operator target/debug/shardwright-gateway target/debug/shardwright-tokenizer \
        target/debug/shardwright-supervise target/debug/shardwright-agent target/debug/shardwright-worker \
        target/debug/libllama.so.0 target/debug/libggml.so.0 target/debug/libggml-base.so.0 \
        target/debug/libggml-cpu.so target/debug/libggml-vulkan.so

FROM debian:${DEBIAN}-slim
LABEL org.opencontainers.image.title="Shardwright" \
      org.opencontainers.image.description="One language model across whatever GPUs a Kubernetes cluster has" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini as PID 1 reaps workers that outlive their agent. The Vulkan loader and Mesa's drivers serve AMD and Intel GPUs, and
# lavapipe where there is none; other vendors' drivers come from the node's container runtime.
# Versions are those of the Debian release: security updates must not wait for an edit here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libstdc++6 libvulkan1 mesa-vulkan-drivers tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 shardwright \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin shardwright
# Shared objects lie beside the executables, which is where these look for them.
COPY --from=build /opt/shardwright /opt/shardwright
ENV PATH=/opt/shardwright:${PATH}
# The chart runs agents as another user, who owns the node's state folder.
USER 65532:65532
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["/opt/shardwright/shardwright-operator", "--help"]
