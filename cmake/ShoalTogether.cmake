# shoal_together(<target> [ALONE <source> ...]): compiles up to eight files of a folder as one: what they include, and the
#   templates that they share, are then compiled once, which halves the time. So names in the unnamed namespaces of a
#   folder differ; a file that shares one with another is ALONE, and so is one in whose place the simulation links another
#   (tests/sim). ALONE may name a folder ("families/"), or be `all`.
#
# In release builds with GCC only, beside precompiled headers, and in those for another machine: the others show that each file
# includes what it uses.
include_guard(GLOBAL)
include(CMakeDependentOption)
include(ShoalPrecompiled)

cmake_dependent_option(SHOAL_TOGETHER "Compile up to eight files of a folder as one" ON
                       "SHOAL_PRECOMPILE OR CMAKE_CROSSCOMPILING;CMAKE_BUILD_TYPE STREQUAL Release" OFF)

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
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC takes the files for headers, whose unnamed namespaces would be another in each file that includes them.
    target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()
