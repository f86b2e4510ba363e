#!/usr/bin/env bash
# Fuzzes the C++ for a time (default: 60 seconds) and looks for data races in it. Usage: tools/fuzz.sh [SECONDS]
# If an input fails, it prints the input's path and ends with 1. If clang's libFuzzer is missing and can't be installed,
# it says so and ends with 0.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
python=${FASTTRAIN_VENV:-.venv}/bin/python
build=build/fuzz
flags=(-std=c++17 -g -O1 -Ifasttrain/native)
fuzzers=(-fsanitize=address,undefined -fno-sanitize-recover=undefined)
mkdir -p "$build"/{fuzz,race,corpus/{cut,decode,differential},finds}

can_fuzz() {
    printf '#include <stdio.h>\n#include <jpeglib.h>\nextern "C" int LLVMFuzzerTestOneInput(const char*, size_t) { return 0; }' |
        clang++ -xc++ -fsanitize=fuzzer,address,undefined - -ljpeg -o "$build/probe" 2>/dev/null
}

install_clang() {
    local as_root=() version
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    install() { DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "$@"; }
    "${as_root[@]}" apt-get update -qq && install clang || return
    # Debian's package of the runtime has clang's version in its name. If it is missing, the runtime came with clang.
    version=$(clang++ -dumpversion)
    install "libclang-rt-${version%%.*}-dev" || true
}

can_fuzz || ! command -v apt-get >/dev/null || install_clang >/dev/null 2>&1 || true
if ! can_fuzz; then
    echo "fuzz: nothing was fuzzed, because clang with libFuzzer or libjpeg's headers are missing and can't be installed"
    exit 0
fi

# compile FOLDER SOURCES... -- FLAGS...: compiles the sources into objects in FOLDER, two at a time
compile() {
    local folder=$1 sources=()
    shift
    while [ "$1" != -- ]; do sources+=("$1") && shift; done
    shift
    printf '%s\n' "${sources[@]}" |
        xargs -P 2 -I SOURCE sh -c '"$@" -o "$0/$(basename SOURCE .cpp).o"' "$folder" clang++ "${flags[@]}" "$@" -c SOURCE
}

# objects FOLDER SOURCES...: prints the paths of the objects that `compile` made
objects() { for source in "${@:2}"; do echo "$build/$1/$(basename "$source" .cpp).o"; done; }

programs=(cut decode differential)
sources=(fasttrain/native/{base,jpeg,cut,decode,resize}/*.cpp)

compile "$build/fuzz" "${sources[@]}" $(printf 'tests/fuzz/%s.cpp ' header_mutator "${programs[@]/#/fuzz_}") -- \
    -fsanitize=fuzzer-no-link "${fuzzers[@]}"
compile "$build/fuzz" tests/fuzz/libjpeg_reference.cpp -- -O2
for name in "${programs[@]}"; do
    clang++ -fsanitize=fuzzer "${fuzzers[@]}" $(objects fuzz "fuzz_$name" header_mutator libjpeg_reference "${sources[@]}") \
        -ljpeg -lpthread -o "$build/fuzz_$name"
done
compile "$build/race" "${sources[@]}" tests/fuzz/race_pool.cpp -- -fsanitize=thread
clang++ -fsanitize=thread $(objects race race_pool "${sources[@]}") -ljpeg -lpthread -o "$build/race_pool"
"$python" tests/fuzz/make_seeds.py "$build/seeds"

failed=0
for name in "${programs[@]}"; do
    log=$build/$name.log
    if "$build/fuzz_$name" -max_total_time=$((seconds / ${#programs[@]})) -max_len=8192 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$build/finds/$name-" "$build/corpus/$name" "$build/seeds/$name" >"$log" 2>&1; then
        echo "fuzz_$name: $(awk '/number_of_executed_units/ { print $2 }' "$log") inputs, no find"
    else
        failed=1
        tail -n 40 "$log"
        echo "fuzz_$name: failed on the input $(sed -n 's/.*Test unit written to //p' "$log" | tail -1); the log is $log"
    fi
done

# ThreadSanitizer crashes on kernels that randomise addresses more widely than it supports.
plain=()
! setarch -R true 2>/dev/null || plain=(setarch -R)
if "${plain[@]}" "$build/race_pool" "$build/seeds/decode" >"$build/race.log" 2>&1; then
    echo "race_pool: no race"
else
    failed=1
    tail -n 40 "$build/race.log"
    echo "race_pool: failed on the photographs of $build/seeds/decode; the log is $build/race.log"
fi
exit $failed
