# What CI runs.
verify:
    .ci/run

# The example project on the embedded default.
dev:
    cargo run --release -- dev examples/quickstart

test *args:
    tests/run {{args}}

# Builds every guest from source.
guests:
    examples/build.sh

bench name:
    cargo bench --bench {{name}}
