# Run by cmake/ShoalPage.cmake: WEB is the folder web/, OUT where to write, NODE and PACKAGES empty or not found where there
# is no Node, or no packages.
set(dist ${OUT}/dist)
file(REMOVE_RECURSE ${dist})
file(MAKE_DIRECTORY ${dist})

set(node_wanted 18.19)  # As package.json says: what Vite needs.
set(node_version 0)
if(NODE)
  execute_process(COMMAND ${NODE} --version OUTPUT_VARIABLE node_version OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REPLACE "v" "" node_version "${node_version}")
endif()

if(PACKAGES AND node_version VERSION_GREATER_EQUAL node_wanted)
  execute_process(
    COMMAND ${NODE} ${WEB}/node_modules/vite/bin/vite.js build --logLevel warn --outDir ${dist} --emptyOutDir
    WORKING_DIRECTORY ${WEB}
    RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "web/: vite could not build the page, see above")
  endif()
else()
  if(NODE AND node_version VERSION_LESS node_wanted)
    set(lacks "Node ${node_version} is too old, it needs ${node_wanted}")
  elseif(NODE)
    set(lacks "the packages of web/ are not installed: ./dev setup installs them")
  else()
    set(lacks "there is no Node: ./dev setup installs it, and the packages of web/")
  endif()
  message("The page at / is left out, a short text stands there instead: ${lacks}")
  file(COPY_FILE ${WEB}/absent.html ${dist}/index.html)
endif()

file(GLOB_RECURSE files RELATIVE ${dist} ${dist}/*)
list(REMOVE_ITEM files index.html)
list(PREPEND files index.html)

set(arrays "")
set(entries "")
set(index 0)
foreach(name IN LISTS files)
  cmake_path(GET name EXTENSION LAST_ONLY extension)
  if(extension STREQUAL ".html")
    set(type "text/html; charset=utf-8")
  elseif(extension STREQUAL ".js")
    set(type "text/javascript; charset=utf-8")
  elseif(extension STREQUAL ".css")
    set(type "text/css; charset=utf-8")
  elseif(extension STREQUAL ".svg")
    set(type "image/svg+xml")
  else()
    message(FATAL_ERROR "web/: what type is ${name}? Add it to cmake/build_page.cmake")
  endif()
  file(READ ${dist}/${name} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  file(SHA256 ${dist}/${name} hash)
  string(SUBSTRING ${hash} 0 32 hash)
  set(immutable false)
  if(name MATCHES "^assets/")
    set(immutable true)  # Vite puts a hash of the content into these names.
  endif()
  set(path "/${name}")
  if(name STREQUAL "index.html")
    set(path "/")
  endif()
  string(APPEND arrays "constexpr unsigned char kBytes${index}[] = {${bytes}};\n")
  string(APPEND entries "      {\"${path}\", \"${type}\", \"\\\"${hash}\\\"\", ViewOf(kBytes${index}), ${immutable}},\n")
  math(EXPR index "${index} + 1")
endforeach()

file(
  WRITE ${OUT}/page_files.cpp
  "// Made by cmake/build_page.cmake.
#include \"app/page_files.h\"

#include <string_view>

namespace shoal {
namespace {

${arrays}
template <size_t N>
std::string_view ViewOf(const unsigned char (&bytes)[N]) {
  return {reinterpret_cast<const char*>(bytes), N};
}

}  // namespace

std::span<const PageFile> BuiltInPage() {
  static const PageFile files[] = {
${entries}  };
  return files;
}

}  // namespace shoal
")
