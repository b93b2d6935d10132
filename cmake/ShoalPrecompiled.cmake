# shoal_precompile(<target> [TESTS]): builds a target with the headers of precompiled.h read once for all of them;
#   TESTS: with GoogleTest's, too.
#
# GCC only, and not with sanitizers: those builds show that each file includes what it uses.
include_guard(GLOBAL)
include(CMakeDependentOption)

cmake_dependent_option(SHOAL_PRECOMPILE "Read common headers once, not once per file" ON
                       "CMAKE_CXX_COMPILER_ID STREQUAL GNU;NOT SHOAL_SANITIZE" OFF)

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
  if(NOT TARGET gRPC::grpc++)  # Where targets are global (cmake/ShoalPackage.cmake), c-ares' would be made twice.
    find_package(gRPC CONFIG REQUIRED)
  endif()
  if(TARGET re2::re2)
    set_property(TARGET re2::re2 PROPERTY INTERFACE_COMPILE_OPTIONS "")
  endif()
endmacro()
