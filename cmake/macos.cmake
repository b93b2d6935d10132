# Builds for macOS on Apple silicon, on Linux: `./dev check macos`, which makes build/macos-root (tools/macos/root.py). What is
# built has symbols of third parties left open. On a Mac itself nothing of this is used.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
get_filename_component(macos_root ${CMAKE_CURRENT_LIST_DIR}/../build/macos-root ABSOLUTE)
set(macos_target aarch64-macos.13.3)  # The first whose C++ library has all that ours asks of the system.
set(CMAKE_CXX_COMPILER ${macos_root}/bin/clang++)
set(CMAKE_AR ${macos_root}/bin/ar)
set(CMAKE_RANLIB ${macos_root}/bin/ranlib)
set(CMAKE_CXX_FLAGS_INIT "-target ${macos_target}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-undefined,dynamic_lookup")
set(CMAKE_OSX_SYSROOT "")
set(CMAKE_FIND_ROOT_PATH ${macos_root})
set(CMAKE_PREFIX_PATH ${macos_root}/cmake)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(ENV{PKG_CONFIG_LIBDIR} ${macos_root}/pkgconfig)
set(SHOAL_RUST_TARGET aarch64-apple-darwin)
# What zig makes, its C++ library among that, stays below build/, as for the compiler above.
set(macos_cache ${macos_root}/../zig-cache)
set(SHOAL_CARGO_BUILD
    ${CMAKE_COMMAND} -E env PATH=${macos_root}/../zig/bin:$ENV{PATH} ZIG_GLOBAL_CACHE_DIR=${macos_cache} ZIG_LOCAL_CACHE_DIR=${macos_cache}
    CARGO_ZIGBUILD_CACHE_DIR=${macos_cache}/cargo cargo zigbuild)
