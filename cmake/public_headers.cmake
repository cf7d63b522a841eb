# The target `public_headers`, which `all` leaves out: every public header compiles alone, without a warning under the flags
# that programs like to set.
file(GLOB MSPLORA_PUBLIC_HEADERS CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include include/msplora/*/*.h)
set(sources)
foreach(header IN LISTS MSPLORA_PUBLIC_HEADERS)
  set(source ${PROJECT_BINARY_DIR}/public_headers/${header}.cc)
  file(CONFIGURE OUTPUT ${source} CONTENT "#include \"@header@\"\n" @ONLY)
  list(APPEND sources ${source})
endforeach()
add_library(public_headers OBJECT EXCLUDE_FROM_ALL ${sources})
target_link_libraries(public_headers PRIVATE msplora)
target_compile_options(public_headers PRIVATE -O0 -Wall -Wextra -Wpedantic -Werror)
