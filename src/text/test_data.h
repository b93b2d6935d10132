// Reference data of tests/goldens/text, for the tests of this folder.
#pragma once

#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/check.h"
#include "text/tokenizer.h"

namespace shoal::test {

inline std::filesystem::path SourceDir() { return SHOAL_SOURCE_DIR; }
inline std::filesystem::path Goldens() { return SourceDir() / "tests/goldens/text"; }
inline std::filesystem::path DemoModel() { return SourceDir() / "models/shoal-demo-4bit"; }

inline std::string FileText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  SHOAL_CHECK(file.is_open());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::string GunzippedText(const std::filesystem::path& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  SHOAL_CHECK(file != nullptr);
  std::string text;
  std::string chunk(1 << 16, '\0');
  int got = 0;
  while ((got = gzread(file, chunk.data(), static_cast<unsigned>(chunk.size()))) > 0)
    text.append(chunk, 0, got);
  SHOAL_CHECK_EQ(got, 0);
  gzclose(file);
  return text;
}

inline std::string GoldenTokenizerJson(const std::string& name) {
  return GunzippedText(Goldens() / "tokenizers" / name / "tokenizer.json.gz");
}

inline Tokenizer GoldenTokenizer(const std::string& name) {
  auto tokenizer = Tokenizer::FromJson(GoldenTokenizerJson(name));
  SHOAL_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace shoal::test
