#!/usr/bin/env bash
# rustc with counters in what it compiles. Cargo calls it for this workspace's own crates alone (RUSTC_WORKSPACE_WRAPPER),
# so dependencies, llama.cpp first of all, are those of every other build.
# Counters lie in a file that is mapped into the process: a process that is killed has counted, too.
# Not sh: dash drops variables whose names have hyphens, such as CARGO_BIN_EXE_shardwright-agent.
case " $* " in
  *" --crate-name build_script_"*) exec "$@" ;;
  *" --crate-name "*) exec "$@" -C instrument-coverage -C llvm-args=-runtime-counter-relocation ;;
  *) exec "$@" ;;
esac
