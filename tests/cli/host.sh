# A project that adds this one as a folder of its own configures, and compiles what includes our headers under its own warnings.
. "$(dirname "$0")/lib.sh"

mkdir host
cat > host/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.24)
project(host LANGUAGES CXX)
add_subdirectory($SOURCE_DIR msplora)
add_executable(host main.cc)
target_compile_options(host PRIVATE -Wall -Wextra -Wpedantic -Werror)
target_link_libraries(host PRIVATE msplora::msplora msplora::start)
END
cat > host/main.cc <<'END'
#include "msplora/runs/federated_run.h"
#include "msplora/runs/tuned_model.h"
int main() {
  return msplora::adapter_methods().empty() ? 1 : 0;
}
END
"$CMAKE" -G Ninja -S host -B build -DCMAKE_CXX_COMPILER="$CXX" -DTorch_DIR="$TORCH_DIR" > configure.txt 2>&1 ||
  { cat configure.txt >&2; fail "configure"; }
"$CMAKE" --build build --target CMakeFiles/host.dir/main.cc.o > build.txt 2>&1 || { cat build.txt >&2; fail "build"; }
