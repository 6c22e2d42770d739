#!/usr/bin/env bash
# Builds the guests from source.
#
#   examples/build.sh           writes every module and examples/modules.lock
#   examples/build.sh --check   builds beside, compares, changes nothing
#
# It needs cargo and a way to compile for WebAssembly; the first of these that is there is used:
#
#   rustup   rustup target add wasm32-unknown-unknown wasm32-wasip1
#   Debian   apt-get install --no-install-recommends rustc-web rust-web-src rust-web-llvm lld-22 wasi-libc
#            (lld of the same LLVM as rustc-web; compiles the standard library too, which takes a minute longer)
#
# The same compiler gives the same bytes in every directory. Another compiler gives other bytes, so a check with it
# cannot compare modules: it says so, and still tells whether they were built from the present sources.
set -euo pipefail
export LC_ALL=C

usage='usage: examples/build.sh [--check]'
case "$#:${1-}" in
0:) check= ;;
1:--check) check=yes ;;
1:-h | 1:--help) echo "$usage" && exit ;;
*) echo "$usage" >&2 && exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
lock=examples/modules.lock
target_dir=${CARGO_TARGET_DIR:-$root/examples/target}
export CARGO_TARGET_DIR=$target_dir CARGO_INCREMENTAL=0
# What a developer set for other builds must not change these.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET

# Every module, its sources, and what it is compiled for. Modules for wasm32-unknown-unknown become components: they
# import nothing but what they use of their world, no WASI behind the scenes.
modules='
examples/chat/modules/chat.wasm            examples/chat/guests/chat            wasm32-unknown-unknown
examples/quickstart/modules/alerts.wasm    examples/quickstart/guests/alerts    wasm32-unknown-unknown
examples/quickstart/modules/hello.wasm     examples/quickstart/guests/hello     wasm32-unknown-unknown
examples/quickstart/modules/orders.wasm    examples/quickstart/guests/orders    wasm32-unknown-unknown
examples/quickstart/modules/receipts.wasm  examples/quickstart/guests/receipts  wasm32-unknown-unknown
examples/quickstart/modules/reminders.wasm examples/quickstart/guests/reminders wasm32-unknown-unknown
examples/quickstart/modules/report.wasm    examples/quickstart/guests/report    wasm32-wasip1
tests/guests/broadcast.component.wasm      examples/guests/broadcast            wasm32-unknown-unknown
tests/guests/echo.component.wasm           examples/guests/echo                 wasm32-unknown-unknown
tests/guests/everything.component.wasm     examples/guests/everything           wasm32-unknown-unknown
tests/guests/fetch.wasm                    examples/guests/fetch                wasm32-unknown-unknown
tests/guests/hello-http.wasm               examples/guests/hello-http           wasm32-unknown-unknown
tests/guests/relay.component.wasm          examples/guests/relay                wasm32-unknown-unknown
tests/guests/sql.component.wasm            examples/guests/sql                  wasm32-unknown-unknown
tests/guests/hosts.component.wasm          examples/guests/hosts                wasm32-unknown-unknown
tests/guests/standard.component.wasm       examples/guests/standard             wasm32-unknown-unknown
tests/guests/stream.wasm                   examples/guests/stream               wasm32-unknown-unknown
tests/guests/work.component.wasm           examples/guests/work                 wasm32-unknown-unknown
'
each_module() { # runs a function with module, sources and target of every module
    local module sources target
    while read -r module sources target; do
        [ -z "$module" ] || "$1" "$module" "$sources" "$target"
    done <<<"$modules"
}

say() { echo "examples/build.sh: $*" >&2; }
die() { say "$*" && exit 1; }

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# -- the compiler

has_target() { [ -d "$("$1" --print target-libdir --target "$2" 2>/dev/null)" ]; }

debian_packages() {
    local llvm
    llvm=$(/usr/bin/rustc -vV 2>/dev/null | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    echo "rustc-web rust-web-src rust-web-llvm lld-${llvm:-22} wasi-libc"
}

choose_compiler() {
    local rustc=${RUSTC:-rustc} versions
    if has_target "$rustc" wasm32-unknown-unknown && has_target "$rustc" wasm32-wasip1; then
        way=installed
        compiler="$("$rustc" -V), installed targets"
    elif versions=$(dpkg-query -W -f '${Package} ${Version}, ' $(debian_packages) 2>/dev/null); then
        way=debian
        compiler="$(/usr/bin/rustc -V), Debian packages ${versions%, }"
    else
        die "no compiler for WebAssembly: run \`rustup target add wasm32-unknown-unknown wasm32-wasip1\`," \
            "or on Debian \`apt-get install --no-install-recommends $(debian_packages)\`"
    fi
    say "compiling with $compiler"
}

# compile TARGET PACKAGE...: compiles for a target, with nothing of this directory in the result.
compile() {
    local target=$1 source separator=$'\x1f' packages=() build_std=()
    shift
    local flags="--remap-path-prefix=$root=/tripline"
    for source in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        flags+="$separator--remap-path-prefix=$source=/crates"
    done
    for package in "$@"; do packages+=(--package "$package"); done
    if [ $way = debian ]; then
        export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        build_std=(-Zbuild-std=std,panic_abort)
        if [ "$target" = wasm32-wasip1 ]; then
            # Debian keeps the C library for WASI where rustc does not look for it.
            local libc=/usr/lib/wasm32-wasi
            flags+="${separator}-Lnative=$libc${separator}-Clink-self-contained=no"
            flags+="${separator}-Clink-arg=$libc/crt1-command.o"
        fi
    fi
    CARGO_ENCODED_RUSTFLAGS=$flags cargo build --locked --release --manifest-path examples/Cargo.toml \
        --target "$target" ${build_std[@]+"${build_std[@]}"} "${packages[@]}"
}

packages_for() {
    wanted=$1
    package_of() { [ "$3" != "$wanted" ] || basename "$2"; }
    each_module package_of
}

# build_into DIRECTORY: every module, at its path below the directory.
build_into() {
    local into=$1
    cargo fetch --locked --manifest-path examples/Cargo.toml
    cargo build --locked --manifest-path examples/Cargo.toml --package componentize
    (compile wasm32-unknown-unknown $(packages_for wasm32-unknown-unknown))
    (compile wasm32-wasip1 $(packages_for wasm32-wasip1))
    finish() {
        local package built
        package=$(basename "$2")
        built=$target_dir/$3/release
        mkdir -p "$into/$(dirname "$1")"
        case $3 in
        wasm32-wasip1) install -m 644 "$built/$package.wasm" "$into/$1" ;;
        *) "$target_dir/debug/componentize" "$built/${package//-/_}.wasm" "$into/$1" ;;
        esac
    }
    each_module finish
}

# -- the lock

# The digest of everything that a module is made of; the recipe is told in the lock.
sources_digest() {
    find "$1/Cargo.toml" "$1/src" examples/Cargo.toml examples/Cargo.lock sdk/rust/Cargo.toml sdk/rust/src wit -type f | sort | while read -r file; do
        sha256 "$file"
    done | sha256 | cut -d' ' -f1
}

# lock_text DIRECTORY COMPILER: the lock for the modules below the directory.
lock_text() {
    local below=$1
    cat <<EOF
# What the committed modules were built from, and by which compiler. Written by examples/build.sh.
#
# sha256          the SHA-256 of the module.
# sources_sha256  the SHA-256 of a text with one line per source, sorted by path as bytes:
#                     <SHA-256 of the file's bytes, 64 hexadecimal digits><two spaces><path><line feed>
#                 The sources are the files \`<sources>/Cargo.toml\`, \`examples/Cargo.toml\`,
#                 \`examples/Cargo.lock\`, \`sdk/rust/Cargo.toml\`, and every file below \`<sources>/src\`, below
#                 \`sdk/rust/src\` and below \`wit\`; paths are relative to the repository, with "/".
# bytes           the size of the module.

compiler = "$2"
EOF
    entry() {
        printf '\n[[module]]\npath = "%s"\nsources = "%s"\n' "$1" "$2"
        printf 'sha256 = "%s"\n' "$(sha256 "$below/$1" | cut -d' ' -f1)"
        printf 'sources_sha256 = "%s"\n' "$(sources_digest "$2")"
        printf 'bytes = %d\n' "$(wc -c <"$below/$1")"
    }
    each_module entry
}

# -- the two things it does

write() {
    build_into "$root"
    lock_text "$root" "$compiler" >"$lock.new"
    mv "$lock.new" "$lock"
    size() { printf '%9d  %s\n' "$(wc -c <"$1")" "$1"; }
    each_module size
}

check() {
    local recorded wrong=
    recorded=$(sed -n 's/^compiler = "\(.*\)"$/\1/p' "$lock")
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT

    lock_text "$root" "$recorded" >"$scratch/lock"
    if ! diff -u "$lock" "$scratch/lock" >&2; then
        say "$lock does not belong to these modules and sources; run examples/build.sh and commit what it writes"
        wrong=yes
    fi
    for module in examples/chat/modules/*.wasm examples/quickstart/modules/*.wasm tests/guests/*.wasm; do
        grep -q "^path = \"$module\"$" "$lock" || { say "$module is not built here" && wrong=yes; }
    done

    build_into "$scratch"
    if [ "$compiler" = "$recorded" ]; then
        compare() { cmp "$scratch/$1" "$1" >&2 || wrong=yes; }
        each_module compare
    else
        say "bytes are not compared: the modules were built with $recorded"
    fi
    [ -z "$wrong" ] || die "the committed modules are not what their sources give"
    say "the committed modules are what their sources give"
}

choose_compiler
if [ -n "$check" ]; then check; else write; fi
