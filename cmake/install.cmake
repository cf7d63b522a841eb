# `cmake --install` gives lib/, include/msplora/ and lib/cmake/msplora/, so that other projects write
#   find_package(msplora REQUIRED)
#   target_link_libraries(app PRIVATE msplora::msplora)
# or, where there is no libtorch, find_package(msplora REQUIRED COMPONENTS base) and msplora::base.
# examples/embed is such a project.
include(CMakePackageConfigHelpers)

target_compile_features(msplora_base PUBLIC cxx_std_20)
install(TARGETS msplora_base msplora_start EXPORT msploraBaseTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS msplora msplora_torch EXPORT msploraTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/msplora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
foreach(targets msploraBaseTargets msploraTargets)
  install(EXPORT ${targets} NAMESPACE msplora:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msplora)
endforeach()

# What a user of the program reads and starts from.
set(MSPLORA_SHARE ${CMAKE_INSTALL_DATADIR}/msplora)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${MSPLORA_SHARE})
install(DIRECTORY docs recipes DESTINATION ${MSPLORA_SHARE})
install(DIRECTORY models/msplora-base-mini models/msplora-decoder-mini DESTINATION ${MSPLORA_SHARE}/models)

configure_package_config_file(cmake/msploraConfig.cmake.in ${PROJECT_BINARY_DIR}/msploraConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msplora)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/msploraConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/msploraConfig.cmake ${PROJECT_BINARY_DIR}/msploraConfigVersion.cmake
  cmake/libtorch.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msplora)
