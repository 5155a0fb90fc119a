# forebay_options: our own flags. forebay_layer(): a static library per folder. forebay_test(): a GoogleTest binary with labels.
include_guard()

add_library(forebay_options INTERFACE)
target_compile_options(forebay_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlapping copies in std::string operator+ at -O2 and above (GCC bug 105651).
  target_compile_options(forebay_options INTERFACE -Wno-restrict)
endif()
if(FOREBAY_WERROR)
  target_compile_options(forebay_options INTERFACE -Werror)
endif()
# x86-64-v2 is the baseline; wider instructions are chosen at run time.
target_compile_options(forebay_options INTERFACE -march=x86-64-v2 -ffp-contract=off)
if(FOREBAY_SANITIZE)
  target_compile_options(forebay_options INTERFACE -fsanitize=${FOREBAY_SANITIZE} -fno-omit-frame-pointer -g)
  # The vptr check opens a pipe for every type it has not seen: it reports a false error in the tests that run out of descriptors.
  if(FOREBAY_SANITIZE MATCHES "undefined")
    target_compile_options(forebay_options INTERFACE -fno-sanitize=vptr)
  endif()
  target_link_options(forebay_options INTERFACE -fsanitize=${FOREBAY_SANITIZE})
endif()
if(FOREBAY_FUZZ)  # the libraries too, or the fuzzer would not see which of their branches an input takes
  target_compile_options(forebay_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# forebay_layer(NAME SOURCES ... DEPENDS ... [PRIVATE_LIBS ...]): target forebay_NAME; include paths are src/ and include/.
function(forebay_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_LIBS" ${ARGN})
  add_library(forebay_${name} STATIC ${ARG_SOURCES})
  target_include_directories(forebay_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  target_link_libraries(forebay_${name} PUBLIC ${ARG_DEPENDS} PRIVATE forebay_options ${ARG_PRIVATE_LIBS})
endfunction()

# forebay_test(NAME SOURCES ... LIBS ... LABELS ...): binary NAME, one ctest entry for the whole binary.
function(forebay_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} forebay_options GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE FOREBAY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77)
endfunction()
