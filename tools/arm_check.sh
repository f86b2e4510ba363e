#!/usr/bin/env bash
# Checks that the C++ computes the same, bit for bit, on x86 (with each level of instructions), with the generic vectors
# that use no instructions of a processor, and on Arm under qemu. If the cross-compiler or qemu is missing, it says so
# and ends with 0. To install both:
#   apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."
python=${FASTTRAIN_VENV:-.venv}/bin/python
build=build/arm
jpeg=$build/libjpeg
mkdir -p "$build"
skip() { echo "arm_check: nothing was checked, because there is no $*" && exit 0; }

for tool in g++ aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$tool" >/dev/null || skip "$tool here"
done

# Unpack Debian's packages for Arm into build/arm/libjpeg, without changing the system's lists of packages.
fetch_libjpeg() (
    mkdir -p "$jpeg/lists/partial" && cd "$jpeg"
    apt=(apt-get -qq -o "Dir::State::Lists=$PWD/lists" -o APT::Architectures::=arm64)
    "${apt[@]}" update && "${apt[@]}" download libjpeg62-turbo-dev:arm64 libjpeg62-turbo:arm64
    for package in *.deb; do dpkg -x "$package" . || return; done
)
[ -e "$jpeg/usr/include/jpeglib.h" ] || fetch_libjpeg >"$build/libjpeg.log" 2>&1 || skip "libjpeg for Arm (see $build/libjpeg.log)"

sources=(fasttrain/native/{base,jpeg,cut,decode,resize}/*.cpp tests/native/arm_check.cpp)
# build NAME COMPILER FLAGS...
build() {
    mkdir -p "$build/$1"
    printf '%s\n' "${sources[@]}" |
        xargs -P 2 -I SOURCE sh -c '"$@" -c SOURCE -o "$0/$(basename SOURCE .cpp).o"' \
            "$build/$1" "$2" -std=c++17 -O3 -Wall -Wextra -Werror -Ifasttrain/native "${@:3}"
}
objects() { for source in "${sources[@]}"; do echo "$build/$1/$(basename "$source" .cpp).o"; done; }

"$python" tests/fuzz/make_seeds.py "$build/seeds"
build x86 g++
build generic g++ -DFASTTRAIN_GENERIC_VECTORS
build arm aarch64-linux-gnu-g++ -isystem "$jpeg/usr/include" -isystem "$jpeg/usr/include/aarch64-linux-gnu"
for name in x86 generic; do g++ $(objects $name) -ljpeg -lpthread -o "$build/$name/check"; done
aarch64-linux-gnu-g++ $(objects arm) "$jpeg/usr/lib/aarch64-linux-gnu/libjpeg.a" -lpthread -o "$build/arm/check"

"$build/x86/check" "$build"/seeds/decode/* >"$build/x86.txt"
"$build/generic/check" "$build"/seeds/decode/* >"$build/generic.txt"
qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/arm/check" "$build"/seeds/decode/* >"$build/arm.txt"
for name in generic arm; do
    diff "$build/x86.txt" "$build/$name.txt" >"$build/$name.diff" ||
        { head -20 "$build/$name.diff"; echo "arm_check: $name differs from x86; all differences are in $build/$name.diff"; exit 1; }
done
echo "arm_check: $(wc -l <"$build/x86.txt") checksums are the same on x86, with generic vectors and on Arm"
