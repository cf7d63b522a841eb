# Everything comes from Debian packages (scripts/install-deps.sh); docs/architecture.md says why each is used.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)

# Packed products with frozen weights. The Debian package is the library that libtorch itself links.
option(MSPLORA_ONEDNN "Use oneDNN for products with frozen weights" ON)
if(MSPLORA_ONEDNN)
  # Debian's dnnl-config.cmake asks for OpenCL, which a CPU build does not need.
  find_library(DNNL_LIBRARY dnnl REQUIRED)
  find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
endif()

# CMAKE_PREFIX_PATH selects another libtorch (1.13 or any 2.x).
find_package(Torch REQUIRED)
add_library(msplora_torch INTERFACE)
set_target_properties(msplora_torch PROPERTIES EXPORT_NAME torch)
target_link_libraries(msplora_torch INTERFACE ${TORCH_LIBRARIES})
target_compile_options(msplora_torch INTERFACE ${TORCH_CXX_FLAGS})
