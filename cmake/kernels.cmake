# The SIMD kernels are one set of sources compiled once per instruction set; src/kernels/dispatch.cc picks at
# run time. Other processors get the portable build alone.
file(GLOB MSPLORA_CPU_KERNELS CONFIGURE_DEPENDS src/kernels/cpu/*.cc)
set(MSPLORA_KERNEL_ISAS portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND MSPLORA_KERNEL_ISAS avx2 avx512 avx512bf16)
  target_compile_definitions(msplora PRIVATE MSPLORA_KERNELS_X86)
endif()
set(MSPLORA_FLAGS_portable "")
set(MSPLORA_FLAGS_avx2 -march=haswell)
set(MSPLORA_FLAGS_avx512 -march=skylake-avx512 -mprefer-vector-width=512)
set(MSPLORA_FLAGS_avx512bf16 -march=skylake-avx512 -mavx512bf16 -mvaes -mprefer-vector-width=512)
foreach(isa IN LISTS MSPLORA_KERNEL_ISAS)
  add_library(msplora_kernels_${isa} OBJECT ${MSPLORA_CPU_KERNELS})
  target_include_directories(msplora_kernels_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(msplora_kernels_${isa} PRIVATE MSPLORA_ISA=${isa} MSPLORA_ISA_${isa})
  # No errno and no trapping maths let the loops vectorise; the order of reductions stays as written.
  target_compile_options(msplora_kernels_${isa} PRIVATE ${MSPLORA_FLAGS_${isa}}
    -Wno-maybe-uninitialized -Wno-uninitialized  # GCC 12 warns about its own intrinsics (_mm512_undefined_epi32)
    -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast)
  target_link_libraries(msplora_kernels_${isa} PRIVATE OpenMP::OpenMP_CXX)
  msplora_compile_options(msplora_kernels_${isa})
  target_sources(msplora PRIVATE $<TARGET_OBJECTS:msplora_kernels_${isa}>)
endforeach()
