# Before find_package(Torch), in the build and in the installed msploraConfig.cmake: lets it do without a CUDA toolkit.
#
# The configuration of a libtorch with CUDA (PyPI's torch package) fails without nvcc; with nvcc it enables CMake's CUDA
# language and runs programs to learn what the GPU is. That serves projects with CUDA sources of their own. We have none:
# libtorch's libraries find the CUDA libraries that came with them. libtorch skips these steps where the targets that they
# end in are there already.
foreach(target torch::cudart torch::nvtoolsext)
  if(NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
  endif()
endforeach()

# TorchConfig.cmake looks for Caffe2 and libtorch.so in the system's folders first, then beside itself, so another libtorch that is
# installed would be linked. CMAKE_PREFIX_PATH names the package's folder of configurations, an installed msplora its Torch_DIR.
foreach(prefix ${CMAKE_PREFIX_PATH})
  if(NOT Torch_DIR AND EXISTS "${prefix}/Torch/TorchConfig.cmake")
    set(Torch_DIR "${prefix}/Torch" CACHE PATH "Configuration of libtorch")
  endif()
endforeach()
if(Torch_DIR)
  get_filename_component(msplora_torch_folder "${Torch_DIR}" DIRECTORY)
  get_filename_component(msplora_torch_library "${msplora_torch_folder}/../../lib/libtorch.so" ABSOLUTE)
  if(NOT Caffe2_DIR AND EXISTS "${msplora_torch_folder}/Caffe2/Caffe2Config.cmake")
    set(Caffe2_DIR "${msplora_torch_folder}/Caffe2" CACHE PATH "Configuration of libtorch's Caffe2")
  endif()
  if(EXISTS "${msplora_torch_library}")
    set(TORCH_LIBRARY "${msplora_torch_library}" CACHE FILEPATH "The libtorch beside Torch_DIR")
  endif()
endif()
