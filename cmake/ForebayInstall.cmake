# Install rules. Components: `runtime` (forebay-run: load, refit, stream, run; no builder), `tools` (forebay, completion), `development`
# (headers, archives, find_package(forebay)). The tarball (CPack TGZ) is relocatable: shared libraries other than the C library's own lie
# beside the programs, found by a path relative to them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(FOREBAY_RUNTIME_LAYERS base codec onnx plan runtime stream refit api_runtime)
set(FOREBAY_BUILDER_LAYERS builder api)
foreach(layer IN LISTS FOREBAY_RUNTIME_LAYERS FOREBAY_BUILDER_LAYERS)
  if(NOT TARGET forebay_${layer})
    message(STATUS "no install rules: layer ${layer} is not there")
    return()
  endif()
endforeach()

# One archive of all layers a program needs. forebay::forebay = forebay::runtime and the builder.
function(forebay_archive target output)
  set(objects)
  foreach(layer IN LISTS ARGN)
    list(APPEND objects $<TARGET_OBJECTS:forebay_${layer}>)
  endforeach()
  add_library(${target} STATIC ${objects})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${output} LINKER_LANGUAGE CXX)
  target_include_directories(${target} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${target} INTERFACE cxx_std_20)
endfunction()
forebay_archive(forebay_runtime_archive forebay-runtime ${FOREBAY_RUNTIME_LAYERS})
forebay_archive(forebay_archive forebay ${FOREBAY_BUILDER_LAYERS})
set(runtime_libs Threads::Threads OpenSSL::Crypto protobuf::libprotobuf-lite Boost::json PkgConfig::ZSTD PkgConfig::XXHASH)
if(URING_FOUND)
  list(APPEND runtime_libs PkgConfig::URING)
endif()
if(TARGET DNNL::dnnl)
  list(APPEND runtime_libs DNNL::dnnl)
endif()
target_link_libraries(forebay_runtime_archive PRIVATE ${runtime_libs})
target_link_libraries(forebay_archive PUBLIC forebay_runtime_archive)
set_target_properties(forebay_runtime_archive PROPERTIES EXPORT_NAME runtime)
set_target_properties(forebay_archive PROPERTIES EXPORT_NAME forebay)

set(FOREBAY_CONFIG_URING OFF)
if(URING_FOUND)
  set(FOREBAY_CONFIG_URING ON)
endif()
set(FOREBAY_CONFIG_DNNL OFF)
if(TARGET DNNL::dnnl)
  set(FOREBAY_CONFIG_DNNL ON)
endif()
set(FOREBAY_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/forebay)
install(TARGETS forebay_runtime_archive forebay_archive EXPORT forebay-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(EXPORT forebay-targets NAMESPACE forebay:: DESTINATION ${FOREBAY_CMAKE_DIR} COMPONENT development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/forebay DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/forebay-config.cmake.in ${PROJECT_BINARY_DIR}/forebay-config.cmake
  INSTALL_DESTINATION ${FOREBAY_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/forebay-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/forebay-config.cmake ${PROJECT_BINARY_DIR}/forebay-config-version.cmake
  DESTINATION ${FOREBAY_CMAKE_DIR} COMPONENT development)

if(TARGET forebay_command)
  # Two versions lie side by side: the libraries' folder carries the version, programs name it relative to themselves.
  set(FOREBAY_PRIVATE_LIBDIR ${CMAKE_INSTALL_LIBDIR}/forebay-${PROJECT_VERSION})
  set(components tools runtime)
  set(programs forebay_command forebay_run_command)
  foreach(component program IN ZIP_LISTS components programs)
    set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../${FOREBAY_PRIVATE_LIBDIR}")
    # RPATH rather than RUNPATH: it also serves the libraries that the bundled ones need.
    target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
    install(TARGETS ${program} RUNTIME_DEPENDENCY_SET forebay_${component}_libraries
      RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${component})
    install(RUNTIME_DEPENDENCY_SET forebay_${component}_libraries
      PRE_EXCLUDE_REGEXES "^ld-linux" "^libc\\.so" "^libm\\.so" "^libpthread" "^libdl\\.so" "^librt\\.so" "^libresolv"
      LIBRARY DESTINATION ${FOREBAY_PRIVATE_LIBDIR} COMPONENT ${component})
  endforeach()
  if(TARGET forebay_cuda)
    # The programs' own path finds it there.
    set_target_properties(forebay_cuda PROPERTIES INSTALL_RPATH "$ORIGIN")
    foreach(component IN LISTS components)
      install(TARGETS forebay_cuda LIBRARY DESTINATION ${FOREBAY_PRIVATE_LIBDIR} COMPONENT ${component})
    endforeach()
  endif()
  add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/completion/forebay
    COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/completion
    COMMAND forebay_command completion bash > ${PROJECT_BINARY_DIR}/completion/forebay
    DEPENDS forebay_command VERBATIM)
  add_custom_target(forebay_completion ALL DEPENDS ${PROJECT_BINARY_DIR}/completion/forebay)
  install(FILES ${PROJECT_BINARY_DIR}/completion/forebay DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT tools)
endif()
foreach(page README.md ARCHITECTURE.md)
  install(FILES ${PROJECT_SOURCE_DIR}/${page} DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT tools)
endforeach()

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME forebay)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_FILE_NAME forebay-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_COMPONENTS_ALL tools runtime)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_STRIP_FILES ON)
include(CPack)
