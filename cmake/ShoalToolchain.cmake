# Compiler, linker and package choices that every target shares.

find_program(SHOAL_CCACHE ccache)
if(SHOAL_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # What ccache needs to know of precompiled headers: that our files do not look at their macros or at the time.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${SHOAL_CCACHE})
endif()

# mold links for the Linux machine it runs on; a cross compiler brings its own linker.
if(NOT CMAKE_CROSSCOMPILING AND NOT APPLE)
  find_program(SHOAL_MOLD mold)
endif()
if(SHOAL_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

if(APPLE)
  # Homebrew's protobuf brings abseil along, of which CMake's own module does not know.
  set(CMAKE_FIND_PACKAGE_PREFER_CONFIG ON)
endif()
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(fmt REQUIRED)

# Where versions of libraries and compilers are not ours to choose, a new warning must not end the build.
set(werror ON)
if(APPLE AND NOT CMAKE_CROSSCOMPILING)
  set(werror OFF)
endif()
option(SHOAL_WERROR "Warnings are errors" ${werror})

add_library(shoal_options INTERFACE)
# In files that are compiled together Clang takes a name that a later file has again, as in a function, for one that hides the
# earlier file's.
set(together_by_clang $<AND:$<CXX_COMPILER_ID:Clang>,$<BOOL:$<TARGET_PROPERTY:UNITY_BUILD>>>)
target_compile_options(
  shoal_options
  INTERFACE -Wall -Wextra $<$<BOOL:${SHOAL_WERROR}>:-Werror> $<$<NOT:${together_by_clang}>:-Wshadow> -Wnon-virtual-dtor -Wno-missing-field-initializers
            # The numerics promise (docs/numerics.md): an FMA is written where it is meant, never made up.
            -ffp-contract=off -fno-fast-math)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 reports these inside libstdc++ and abseil headers at -O2.
  # Its collector runs every 128 MB and frees little before a file's end: 5 to 8 % of the time. 512 MB hold most files.
  target_compile_options(shoal_options INTERFACE --param=ggc-min-heapsize=524288)
  target_compile_options(shoal_options INTERFACE -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-restrict
                                                 -Wno-array-bounds -Wno-dangling-reference)
endif()
target_include_directories(shoal_options INTERFACE ${CMAKE_SOURCE_DIR}/src)

if(SHOAL_SANITIZE)
  target_compile_options(shoal_options INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(shoal_options INTERFACE -fsanitize=${SHOAL_SANITIZE})
endif()
if(SHOAL_FUZZ)
  target_compile_options(shoal_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                                                 -fno-sanitize-recover=undefined)
  # Clang reports std::get_temporary_buffer inside libstdc++ 12's stable_sort and inplace_merge.
  target_compile_options(shoal_options INTERFACE -Wno-deprecated-declarations)
  target_link_options(shoal_options INTERFACE -fsanitize=address,undefined)
endif()
