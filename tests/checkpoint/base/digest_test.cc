#include "checkpoint/base/digest.h"

#include <gtest/gtest.h>

#include <string>

namespace waypoint {
namespace {

// From the xxHash project's published test vectors.
TEST(Xxh3Test, EmptyInputHasThePublishedValue) { EXPECT_EQ(DigestHex(Xxh3("")), "2d06800538d394c2"); }

TEST(Xxh3Test, StreamInPiecesEqualsTheWhole) {
  std::string text;
  for (int i = 0; i < 100000; ++i) {
    text.push_back(static_cast<char>(i * 131 >> 3));
  }
  Xxh3Stream stream;
  for (size_t begin = 0, piece = 1; begin < text.size(); begin += piece, piece = piece * 3 + 1) {
    const size_t bytes = std::min(piece, text.size() - begin);
    stream.Update(absl::MakeConstSpan(text.data() + begin, bytes));
  }

  EXPECT_EQ(stream.Digest(), Xxh3(text));
}

TEST(Xxh3Test, OneBitChangesTheDigest) { EXPECT_NE(Xxh3("a"), Xxh3("c")); }

TEST(DigestHexTest, IsPaddedTo16Digits) { EXPECT_EQ(DigestHex(0xab), "00000000000000ab"); }

// FIPS 180-2, appendix B.1.
TEST(Sha256Test, AbcHasThePublishedValue) {
  Sha256 sha;
  sha.Update("a");
  sha.Update("bc");

  EXPECT_EQ(sha.Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, HexLeavesTheStreamOpen) {
  Sha256 sha;

  EXPECT_EQ(sha.Hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  sha.Update("abc");
  EXPECT_EQ(sha.Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace waypoint
