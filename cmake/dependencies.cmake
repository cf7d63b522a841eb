# Everything comes from Debian packages (scripts/install-deps.sh); docs/architecture.md says why each is used.
# A project that adds this one with add_subdirectory links these from its own folder.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)
find_package(Threads REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
find_package(ZLIB REQUIRED)
find_package(LibLZMA REQUIRED)

# Packed products with frozen weights. The Debian package is the library that libtorch itself links.
option(MSPLORA_ONEDNN "Use oneDNN for products with frozen weights" ON)
if(MSPLORA_ONEDNN)
  # Debian's dnnl-config.cmake asks for OpenCL, which a CPU build does not need.
  find_library(DNNL_LIBRARY dnnl REQUIRED)
  # The headers of that library, not those that a libtorch of CMAKE_PREFIX_PATH may bring.
  cmake_path(GET DNNL_LIBRARY PARENT_PATH library_folder)
  find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED
    HINTS ${library_folder}/../include ${library_folder}/../../include NO_CMAKE_PATH)
  file(STRINGS ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h dnnl_major REGEX "define DNNL_VERSION_MAJOR")
  string(REGEX REPLACE ".* " "" dnnl_major "${dnnl_major}")
  file(REAL_PATH ${DNNL_LIBRARY} library_file)
  if(library_file MATCHES "\\.so\\.([0-9]+)" AND NOT CMAKE_MATCH_1 EQUAL dnnl_major)
    message(FATAL_ERROR "oneDNN: ${library_file} is version ${CMAKE_MATCH_1}, the headers in ${DNNL_INCLUDE_DIR} are "
      "version ${dnnl_major}; set DNNL_LIBRARY and DNNL_INCLUDE_DIR to one installation, or -DMSPLORA_ONEDNN=OFF")
  endif()
endif()

# CMAKE_PREFIX_PATH selects another libtorch (1.13 or any 2.x).
include(cmake/libtorch.cmake)
find_package(Torch REQUIRED QUIET)
message(STATUS "libtorch ${Torch_VERSION} in ${TORCH_INSTALL_PREFIX}")
if(TORCH_CXX_FLAGS MATCHES "_GLIBCXX_USE_CXX11_ABI=0")
  message(FATAL_ERROR "${Torch_DIR}: this libtorch has the old ABI of the C++ library (_GLIBCXX_USE_CXX11_ABI=0), unlike "
    "this system's other libraries. PyPI's torch has the present one from 2.6 on.")
endif()
include(cmake/own_headers.cmake)
# One OpenMP runtime in a process: the one that libtorch brings, where it brings one.
if(EXISTS ${TORCH_INSTALL_PREFIX}/lib/libgomp.so.1)
  set(OpenMP_gomp_LIBRARY ${TORCH_INSTALL_PREFIX}/lib/libgomp.so.1 CACHE FILEPATH "OpenMP runtime of libtorch")
endif()
find_package(OpenMP REQUIRED)
add_library(msplora_torch INTERFACE)
set_target_properties(msplora_torch PROPERTIES EXPORT_NAME torch)
# Its targets, not TORCH_LIBRARIES: that list takes libc10 from the system's folders where there is one too.
target_link_libraries(msplora_torch INTERFACE torch torch_library c10)
target_compile_options(msplora_torch INTERFACE ${TORCH_CXX_FLAGS})
unset(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
