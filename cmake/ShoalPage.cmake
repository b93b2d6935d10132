# shoal_page(<target>): compiles the page of web/ into a target, as src/app/page_files.h declares it.
#
# Vite builds it where Node and web/node_modules are there (`./dev setup`); where not, a short text says so. Nothing that is
# made is committed. Every build looks again whether the packages have come.
include_guard(GLOBAL)

function(shoal_page target)
  set(web ${CMAKE_SOURCE_DIR}/web)
  set(out ${CMAKE_BINARY_DIR}/page)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${web}/src/*.ts ${web}/src/*.tsx ${web}/src/*.css ${web}/public/*)
  # npm writes it last, so it is there once all packages are.
  file(GLOB packages CONFIGURE_DEPENDS ${web}/node_modules/.package-lock.json)
  find_program(SHOAL_NODE node)
  add_custom_command(
    OUTPUT ${out}/page_files.cpp
    COMMAND ${CMAKE_COMMAND} -D WEB=${web} -D OUT=${out} -D NODE=${SHOAL_NODE} -D PACKAGES=${packages} -P
            ${CMAKE_SOURCE_DIR}/cmake/build_page.cmake
    DEPENDS ${sources} ${packages} ${web}/index.html ${web}/absent.html ${web}/package.json ${web}/tsconfig.json
            ${web}/vite.config.ts ${CMAKE_SOURCE_DIR}/cmake/build_page.cmake
    COMMENT "Building the page"
    VERBATIM)
  target_sources(${target} PRIVATE ${out}/page_files.cpp)
endfunction()
