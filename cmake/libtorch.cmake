# Before find_package(Torch), in the build and in the installed msploraConfig.cmake: lets it do without a CUDA toolkit.
#
# The configuration of a libtorch with CUDA (PyPI's torch package) fails without nvcc; with nvcc it enables CMake's CUDA
# language and runs programs to learn what the GPU is. That serves projects with CUDA sources of their own. We have none:
# libtorch's libraries find the CUDA libraries that came with them. libtorch skips these steps where the targets that they
# end in are there already.
foreach(target torch::cudart torch::nvtoolsext)
  if(NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED)
  endif()
endforeach()
