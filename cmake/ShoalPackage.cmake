# The binary of packages (the preset `package`, `./dev package`): it loads libraries that every system of its age has, and which
# their distribution keeps safe, and no others: glibc, OpenSSL and zlib. What else it needs is in it, so that it can be copied
# to any machine (docs/decisions/0043-packages-hold-one-binary.md).
#
# Objects are compiled as those of `release`, so that ccache has them; only the last link differs.
include_guard(GLOBAL)

option(SHOAL_PACKAGE "Link a binary that can be copied to other machines" OFF)
set(SHOAL_ARCHIVES ${CMAKE_SOURCE_DIR}/build/package-archives
    CACHE PATH "Archives of libraries of which the distribution has shared ones only; tools/package/archives.sh makes them")
set(shoal_loaded_libraries libssl libcrypto libz)

if(SHOAL_PACKAGE)
  set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)  # So that shoal_use_archives() reaches them.
  # pkg-config gives a path, or -lre2, in place of a target with a path.
  find_library(pkgcfg_lib_XXHASH_xxhash NAMES libxxhash.a)
  find_library(pkgcfg_lib_NCURSESW_ncursesw NAMES libncursesw.a)
  find_library(pkgcfg_lib_NCURSESW_tinfo NAMES libtinfo.a)
  find_library(SHOAL_RE2_ARCHIVE NAMES libre2.a)
  add_link_options(-static-libstdc++ -static-libgcc -Wl,--gc-sections)
endif()

# The archive beside a shared library, or among SHOAL_ARCHIVES; "" where there is none, or it is to be loaded.
function(shoal_archive_of library out)
  set(${out} "" PARENT_SCOPE)
  if(NOT library MATCHES "^(.*)/(lib[^/]*)\\.so[0-9.]*$")
    return()
  endif()
  set(folder ${CMAKE_MATCH_1})
  set(name ${CMAKE_MATCH_2})
  if(name IN_LIST shoal_loaded_libraries)
    return()
  endif()
  foreach(archive IN ITEMS ${SHOAL_ARCHIVES}/${name}.a ${folder}/${name}.a)
    if(EXISTS ${archive})
      set(${out} ${archive} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Has the imported libraries of a folder, and of those below, link archives where there are some. What is left shared is seen
# in the binary: tools/package/package.py refuses it.
function(shoal_use_archives folder)
  get_property(targets DIRECTORY ${folder} PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    if(NOT TARGET ${target})  # Of that folder alone.
      continue()
    endif()
    if(target STREQUAL "re2::re2" AND SHOAL_RE2_ARCHIVE)
      set_property(TARGET ${target} PROPERTY INTERFACE_LINK_LIBRARIES ${SHOAL_RE2_ARCHIVE})
    endif()
    get_target_property(type ${target} TYPE)
    if(type STREQUAL "INTERFACE_LIBRARY" OR type STREQUAL "EXECUTABLE")
      continue()
    endif()
    get_target_property(configurations ${target} IMPORTED_CONFIGURATIONS)
    list(TRANSFORM configurations PREPEND _)
    foreach(suffix IN ITEMS "" LISTS configurations)
      get_target_property(library ${target} IMPORTED_LOCATION${suffix})
      shoal_archive_of("${library}" archive)
      if(archive)
        set_property(TARGET ${target} PROPERTY IMPORTED_LOCATION${suffix} ${archive})
      endif()
    endforeach()
  endforeach()
  get_property(below DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(one IN LISTS below)
    shoal_use_archives(${one})
  endforeach()
endfunction()
