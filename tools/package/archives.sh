#!/usr/bin/env bash
# archives.sh FOLDER: builds archives of the libraries of which the distribution has shared ones only, from the distribution's own
# sources in the version that is installed. apt looks them up with folders of its own: the system's lists stay as they are.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)

fail() {
  printf 'archives.sh: %s\n' "$*" >&2
  exit 1
}

# archive, package with its headers, and what CMake is to be told.
libraries=(
  "libfmt.a libfmt-dev -DFMT_TEST=OFF -DFMT_DOC=OFF"
  "libspdlog.a libspdlog-dev -DSPDLOG_FMT_EXTERNAL=ON -DSPDLOG_BUILD_EXAMPLE=OFF"
  "libprometheus-cpp-core.a prometheus-cpp-dev -DENABLE_PULL=OFF -DENABLE_PUSH=OFF -DENABLE_TESTING=OFF -DENABLE_COMPRESSION=OFF")

# The system's own mirrors, asked for sources.
apt_ready=
private_apt() {
  local state=$folder/apt name keyring
  local apt=(apt-get -qq -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)"
    -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null)
  if [[ -z $apt_ready ]]; then
    # shellcheck source=/dev/null
    name=$(. /etc/os-release && echo "$ID")
    keyring=/usr/share/keyrings/$name-archive-keyring.gpg
    [[ -f $keyring ]] || fail "$keyring is missing: apt-get install $name-archive-keyring, or $name-keyring"
    mkdir -p "$state"/{lists,cache/archives}/partial
    # The fields are apt's.
    # shellcheck disable=SC2016
    apt-get indextargets --format 'deb-src [signed-by=KEYRING] $(SITE) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' "Origin: ${name^}" | sort -u | sed "s|KEYRING|$keyring|" >"$state/sources.list"
    [[ -s $state/sources.list ]] || fail "apt knows no source of $name's packages: apt-get update"
    "${apt[@]}" update || fail 'the lists of source packages cannot be read, see above'
    apt_ready=yes
  fi
  "${apt[@]}" "$@"
}

for line in "${libraries[@]}"; do
  read -r archive package options <<<"$line"
  [[ ! -f /usr/lib/$(gcc -dumpmachine)/$archive ]] || continue
  read -r source version < <(dpkg-query -W -f '${source:Package} ${source:Version}\n' "$package") ||
    fail "$package is not installed: ./dev setup"
  [[ $(cat "$folder/$archive.stamp" 2>/dev/null) != "$source $version" ]] || continue

  echo "building $archive from the source package $source $version"
  rm -rf "${folder:?}/$source"
  mkdir -p "$folder/$source"
  (cd "$folder/$source" && private_apt source --download-only "$source=$version") || fail "no source package $source $version"
  dpkg-source --no-check --extract "$folder/$source"/*.dsc "$folder/$source/tree" >/dev/null  # apt has checked its hashes.
  read -ra words <<<"$options"
  cmake -S "$folder/$source/tree" -B "$folder/$source/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON "${words[@]}" >"$folder/$source/cmake.log" || fail "see $folder/$source/cmake.log"
  cmake --build "$folder/$source/build" ${SHOAL_JOBS:+-j "$SHOAL_JOBS"} >"$folder/$source/build.log" ||
    fail "see $folder/$source/build.log"
  find "$folder/$source/build" -name "$archive" -exec cp {} "$folder/$archive" \;
  [[ -f $folder/$archive ]] || fail "$folder/$source/build holds no $archive"
  echo "$source $version" >"$folder/$archive.stamp"
done
