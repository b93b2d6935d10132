// The page for people at `/`: files that are compiled in, with the headers that keep a browser from running anything else.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "api/http/server.h"

namespace shoal {

/// One file of the page. All views outlive the routes.
struct PageFile {
  std::string_view path;  ///< "/" or "/assets/page-1a2b.js"
  std::string_view content_type;
  std::string_view etag;  ///< With its quotes.
  std::string_view bytes;
  /// Its name says what is in it: it may be kept for a year. Else browsers ask each time whether it is still the same.
  bool immutable = false;
};

/// A GET for each file, answered without a key: nothing of the cluster is in them. 304 where the browser has the file.
std::vector<HttpRoute> PageRoutes(std::span<const PageFile> files);

/// Whether If-None-Match (a list of tags, or "*") names the tag; weak ones count.
bool MatchesETag(std::string_view if_none_match, std::string_view etag);

}  // namespace shoal
