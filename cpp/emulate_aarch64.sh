#!/bin/sh
# Builds the runtime for aarch64 and tests its NEON kernels against plain C++, under emulation.
#
#     sudo dpkg --add-architecture arm64 && sudo apt-get update && sudo apt-get install g++-aarch64-linux-gnu qemu-user
#     cpp/emulate_aarch64.sh PYTHON
#
# PYTHON has to be of Debian's Python version; Debian's Python for aarch64 is unpacked into build/aarch64, not installed.
set -eu
python=${1:?"usage: cpp/emulate_aarch64.sh PYTHON, a Python of the version that Debian has"}
source=$(cd "$(dirname "$0")/.." && pwd)
here=$source/build/aarch64
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
root=$here/root
mkdir -p "$here/debian" "$root"

cd "$here/debian"
packages="python$version-minimal libpython$version-minimal libpython$version-stdlib libpython$version-dev libc6 libgcc-s1
    libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5"
# shellcheck disable=SC2046,SC2086 # to be split into words
apt-get download $(printf '%s:arm64 ' $packages)
for package in *.deb; do dpkg -x "$package" "$root"; done

"$python" -m venv "$here/host"
"$here/host/bin/pip" install --quiet cmake ninja # Debian's CMake does not run Python in the emulator
"$here/host/bin/pip" install --quiet --upgrade --target "$here/site" --only-binary=:all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 numpy pytest hypothesis nanobind
export PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1
emulator="qemu-aarch64 -cpu max -L $root"

PATH=$here/host/bin:$PATH
cmake -S "$source/cpp" -B "$here/made" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CROSSCOMPILING_EMULATOR="$(echo "$emulator" | tr ' ' ';')" \
    -DPython_EXECUTABLE="$root/usr/bin/python$version" -DPython_INCLUDE_DIR="$root/usr/include/python$version" \
    -DCMAKE_CXX_FLAGS="-I$root/usr/include"
cmake --build "$here/made"

rm -rf "$here/package"
mkdir "$here/package"
cp -r "$source/ordito" "$here/package"
cp "$here/made/"_core.*.so "$here/package/ordito"
PYTHONPATH="$here/package:$here/site" $emulator "$root/usr/bin/python$version" -m pytest -p no:cacheprovider -c /dev/null \
    --rootdir "$source" "$source/tests/native/test_kernels.py" \
    "$source/tests/native/test_plain_products.py" "$source/tests/native/test_screening.py"
