# shoal_precompile(<target> [TESTS]): builds a target with the headers of precompiled.h read once for all of them;
#   TESTS: with GoogleTest's, too.
#
# GCC only, and neither with sanitizers nor for another machine: those builds show that each file includes what it uses.
include_guard(GLOBAL)
include(CMakeDependentOption)

cmake_dependent_option(SHOAL_PRECOMPILE "Read common headers once, not once per file" ON
                       "CMAKE_CXX_COMPILER_ID STREQUAL GNU;NOT SHOAL_SANITIZE;NOT CMAKE_CROSSCOMPILING" OFF)

# shoal_compile_soon(<target> [FLAG ...]): for code whose speed nobody waits for, such as tests: less optimised in release builds,
#   which saves a quarter of the compiler's time. `-g0`, too: who debugs it takes the debug preset.
function(shoal_compile_soon target)
  target_compile_options(${target} PRIVATE "$<$<CONFIG:Release>:-O1;${ARGN}>")
endfunction()

# An empty library that owns precompiled headers.
function(shoal_precompiled_headers name)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/${name}.cpp CONTENT "")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE shoal_options fmt::fmt absl::status absl::statusor)
  target_compile_options(${name} PRIVATE -fpch-preprocess)  # ccache reads the name of the file from it.
  target_precompile_headers(${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h)
endfunction()

if(SHOAL_PRECOMPILE)
  shoal_precompiled_headers(shoal_precompiled)
  if(SHOAL_TESTS)
    shoal_precompiled_headers(shoal_precompiled_tests)
    target_link_libraries(shoal_precompiled_tests PRIVATE GTest::gmock)
    shoal_compile_soon(shoal_precompiled_tests -g0)
    target_precompile_headers(shoal_precompiled_tests PRIVATE <gmock/gmock.h> <gtest/gtest.h>)
  endif()
endif()

function(shoal_precompile target)
  if(SHOAL_PRECOMPILE)
    set(headers shoal_precompiled)
    if("TESTS" IN_LIST ARGN)
      set(headers shoal_precompiled_tests)
    endif()
    target_compile_options(${target} PRIVATE -fpch-preprocess)
    target_precompile_headers(${target} REUSE_FROM ${headers})
  endif()
endfunction()

# shoal_find_grpc(): gRPC for this folder. re2, which it brings, asks for -pthread; that defines a macro which our precompiled
# headers do not have, so that they would not fit. Threads come from Threads::Threads.
macro(shoal_find_grpc)
  find_package(gRPC CONFIG REQUIRED)
  if(TARGET re2::re2)
    set_property(TARGET re2::re2 PROPERTY INTERFACE_COMPILE_OPTIONS "")
  endif()
endmacro()

cmake_dependent_option(SHOAL_TOGETHER "Compile up to eight files of a folder as one" ON
                       "SHOAL_PRECOMPILE;CMAKE_BUILD_TYPE STREQUAL Release" OFF)

# shoal_together(<target> [ALONE <source> ...]): compiles up to eight files of a folder as one, in release builds: what they
#   include, and the templates that they share, are then compiled once, which halves the time. So names in the unnamed
#   namespaces of a folder differ; a file that shares one with another is ALONE, and so is one in
#   whose place the simulation links another (tests/sim). ALONE may name a folder ("families/"), or be `all`.
function(shoal_together target)
  cmake_parse_arguments(ARG "" "" "ALONE" ${ARGN})
  if(NOT SHOAL_TOGETHER OR ARG_ALONE STREQUAL "all")
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  set(last_folder "")
  set(group 0)
  set(in_group 0)
  foreach(source IN LISTS sources)
    get_filename_component(source ${source} ABSOLUTE)
    file(RELATIVE_PATH source ${CMAKE_CURRENT_SOURCE_DIR} ${source})
    get_filename_component(folder "${source}" DIRECTORY)
    if(in_group EQUAL 8 OR NOT folder STREQUAL last_folder)
      math(EXPR group "${group} + 1")
      set(in_group 0)
    endif()
    math(EXPR in_group "${in_group} + 1")
    set(last_folder "${folder}")
    if(source MATCHES "\\.cpp$" AND NOT source IN_LIST ARG_ALONE AND NOT "${folder}/" IN_LIST ARG_ALONE)
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${target}_${group})
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  # GCC takes the files for headers, whose unnamed namespaces would be another in each file that includes them.
  target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
endfunction()
