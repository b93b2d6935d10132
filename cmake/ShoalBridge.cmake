# shoal_bridge: the Rust crate of bridge/ as a static library target.
#
# All build folders share cargo's target folder (build/bridge), so that only the first pays for the dependencies; cargo
# locks it. Each takes its own copy of the library, so that none relinks because of another.
#
# A toolchain file for another machine says SHOAL_RUST_TARGET, which rustup has to have, and SHOAL_RUST_LINKER, which links
# what crates make beside their libraries; or SHOAL_CARGO_BUILD: what to run in place of `cargo build`.
include_guard(GLOBAL)

find_program(SHOAL_CARGO cargo HINTS $ENV{HOME}/.cargo/bin)
if(NOT SHOAL_CARGO)
  message(FATAL_ERROR "cargo was not found; ./dev setup installs Rust, or see https://rustup.rs")
endif()

set(bridge_folder ${CMAKE_SOURCE_DIR}/bridge)
set(bridge_target ${CMAKE_SOURCE_DIR}/build/bridge)
set(bridge_library ${CMAKE_BINARY_DIR}/bridge/libshoal_bridge.a)
set(bridge_build ${SHOAL_CARGO} build)
if(SHOAL_CARGO_BUILD)
  set(bridge_build ${SHOAL_CARGO_BUILD})
elseif(SHOAL_RUST_LINKER)
  string(TOUPPER CARGO_TARGET_${SHOAL_RUST_TARGET}_LINKER bridge_linker)
  string(REPLACE - _ bridge_linker ${bridge_linker})
  list(PREPEND bridge_build ${CMAKE_COMMAND} -E env ${bridge_linker}=${SHOAL_RUST_LINKER})
endif()
set(bridge_output ${bridge_target}/release)
if(SHOAL_RUST_TARGET)
  list(APPEND bridge_build --target ${SHOAL_RUST_TARGET})
  set(bridge_output ${bridge_target}/${SHOAL_RUST_TARGET}/release)
endif()
file(GLOB bridge_sources CONFIGURE_DEPENDS ${bridge_folder}/src/*.rs)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/bridge)

add_custom_command(
  OUTPUT ${bridge_library}
  COMMAND ${bridge_build} --release --locked --quiet --manifest-path ${bridge_folder}/Cargo.toml --target-dir ${bridge_target}
  COMMAND ${CMAKE_COMMAND} -E copy ${bridge_output}/libshoal_bridge.a ${bridge_library}
  DEPENDS ${bridge_sources} ${bridge_folder}/Cargo.toml ${bridge_folder}/Cargo.lock
          ${CMAKE_SOURCE_DIR}/src/formats/end_of_text_names.inc
  COMMENT "Building the Rust bridge"
  VERBATIM)
add_custom_target(shoal_bridge_build DEPENDS ${bridge_library})

add_library(shoal_bridge STATIC IMPORTED GLOBAL)
add_dependencies(shoal_bridge shoal_bridge_build)
set_target_properties(
  shoal_bridge
  PROPERTIES IMPORTED_LOCATION ${bridge_library}
             INTERFACE_INCLUDE_DIRECTORIES ${bridge_folder}
             INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
