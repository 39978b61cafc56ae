#!/usr/bin/env bash
# What a tool can check: format, lints, the examples, the shell scripts' syntax.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "not run: cargo fmt is not installed"; fi
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --all-targets --features count-allocs,aec -- -D warnings
    cargo clippy --locked --all-targets --no-default-features -- -D warnings
else
    echo "not run: cargo clippy is not installed; warnings of the compiler are looked at instead"
    RUSTFLAGS="-D warnings" cargo check --locked --all-targets
fi
for script in scripts/* .ci/run cross/* packaging/*; do
    case $(head -n1 "$script") in '#!'*bash*) bash -n "$script" ;; '#!/bin/sh'*) sh -n "$script" ;; esac
done
bash -n cross/lib.sh; bash -n tests/systemd/machine.sh
for config in configs/*.toml; do
    cargo run --locked --quiet --features aec -- check --config "$config" >/dev/null
done
