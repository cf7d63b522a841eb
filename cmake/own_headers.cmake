# A libtorch that is not Debian's brings headers of libraries that we take from Debian (oneDNN, fmt), of other versions, in its own
# include folder; that comes before the system's, so they would be compiled against, and the system's libraries linked.
# MSPLORA_OWN_HEADERS is a folder with links to the headers that belong to the libraries that are linked; it goes first.
set(MSPLORA_OWN_HEADERS ${PROJECT_BINARY_DIR}/own_headers)
file(REMOVE_RECURSE ${MSPLORA_OWN_HEADERS})
file(MAKE_DIRECTORY ${MSPLORA_OWN_HEADERS})

# The folder that holds NAME and belongs to us: where the target or the variable says, else the compiler's own.
function(msplora_own_header name)
  foreach(folder IN LISTS TORCH_INCLUDE_DIRS)
    if(NOT EXISTS ${folder}/${name})
      continue()
    endif()
    foreach(own IN LISTS ARGN CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
      if(EXISTS ${own}/${name} AND NOT own IN_LIST TORCH_INCLUDE_DIRS)
        file(CREATE_LINK ${own}/${name} ${MSPLORA_OWN_HEADERS}/${name} SYMBOLIC)
        message(STATUS "${name}: ${own}/${name} instead of ${folder}/${name}")
        break()
      endif()
    endforeach()
  endforeach()
endfunction()

foreach(library fmt spdlog nlohmann yaml-cpp CLI gtest gmock pcre2.h utf8proc.h zlib.h lzma.h lzma)
  msplora_own_header(${library})
endforeach()
msplora_own_header(oneapi ${DNNL_INCLUDE_DIR})
file(GLOB own_headers ${MSPLORA_OWN_HEADERS}/*)
if(own_headers)
  # SYSTEM, as libtorch's: first come, first searched.
  include_directories(SYSTEM BEFORE ${MSPLORA_OWN_HEADERS})
endif()
