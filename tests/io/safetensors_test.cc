#include "msplora/io/safetensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>
#include <fmt/format.h>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/test_files.h"
#include "msplora/core/random.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using io_test::error_of;
using io_test::raw_safetensors;
using io_test::write_bytes;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kOneFloat = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

std::string object(const std::string& entries) {
  return fmt::format("{{{}}}", entries);
}

// The message for a file with this header and this many bytes of data; names the file in any case.
std::string header_refusal(const std::string& header, size_t data_bytes = 4) {
  TemporaryDirectory directory;
  const auto path = directory / "bad.safetensors";
  write_bytes(path, raw_safetensors(header, std::string(data_bytes, '\0')));
  const std::string message = error_of(ErrorCode::kFormat, [&] { SafetensorsFile::open(path); });
  EXPECT_THAT(message, HasSubstr("bad.safetensors")) << header;
  return message;
}

std::string refusal_of_bytes(const std::string& bytes) {
  TemporaryDirectory directory;
  write_bytes(directory / "bad.safetensors", bytes);
  return error_of(ErrorCode::kFormat, [&] { SafetensorsFile::open(directory / "bad.safetensors"); });
}

std::vector<NamedTensor> one_of_each() {
  const at::Tensor base = at::arange(-6, 6, at::kDouble).mul(1.25).view({3, 4});
  std::vector<NamedTensor> tensors;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                           at::kChar, at::kBool}) {
    tensors.push_back({std::string("t.") + c10::toString(dtype), base.to(dtype)});
  }
  tensors.push_back({"t.Byte", base.abs().to(at::kByte)});
  return tensors;
}

TEST(Safetensors, RoundTripsEveryDtypeWithoutCopying) {
  TemporaryDirectory directory;
  std::vector<NamedTensor> tensors = one_of_each();
  tensors.push_back({"transposed", at::arange(6, at::kFloat).view({2, 3}).t()});
  tensors.push_back({"strided", at::arange(10, at::kLong).slice(0, 0, 10, 3)});
  tensors.push_back({"scalar", at::scalar_tensor(2.5, at::kFloat)});
  tensors.push_back({"empty", at::empty({0, 7}, at::kHalf)});
  tensors.push_back({"needs.grad", at::ones({2}).set_requires_grad(true)});
  tensors.push_back({"na\"me \xC3\xA9\n", at::ones({1})});
  write_safetensors(directory / "a.safetensors", tensors,
                    {{"format", "pt"}, {"k\xC3\xA9y", "a \"quoted\" value"}});
  const auto file = SafetensorsFile::open(directory / "a.safetensors");
  EXPECT_EQ(file->tensors().size(), tensors.size());
  EXPECT_EQ(file->metadata().at("k\xC3\xA9y"), "a \"quoted\" value");
  const char* map_start = nullptr;
  for (const NamedTensor& written : tensors) {
    const at::Tensor read = file->tensor(written.name);
    EXPECT_EQ(read.scalar_type(), written.tensor.scalar_type()) << written.name;
    EXPECT_EQ(read.sizes(), written.tensor.sizes()) << written.name;
    EXPECT_TRUE(at::equal(read, written.tensor.detach())) << written.name;
    if (read.numel() == 0) continue;
    // All of them lie in one map, at their place in the file: nothing was copied.
    const auto* start = static_cast<const char*>(read.data_ptr()) - file->tensors().at(written.name).begin;
    if (map_start == nullptr) map_start = start;
    EXPECT_EQ(start, map_start) << written.name;
  }
}

TEST(Safetensors, TensorsKeepTheMapAlive) {
  TemporaryDirectory directory;
  write_safetensors(directory / "a.safetensors", {{"w", at::arange(4096, at::kFloat)}});
  at::Tensor tensor;
  {
    const auto file = SafetensorsFile::open(directory / "a.safetensors");
    tensor = file->tensor("w");
  }
  std::filesystem::remove(directory / "a.safetensors");
  EXPECT_EQ(tensor.sum().item<double>(), 4095.0 * 4096.0 / 2);
}

TEST(Safetensors, WritesTheHeaderByteForByte) {
  TemporaryDirectory directory;
  const auto path = directory / "a.safetensors";
  const std::vector<NamedTensor> tensors = {{"b", at::scalar_tensor(1, at::kByte).view({1})},
                                            {"z", at::full({1, 2}, 1.0, at::kFloat)},
                                            {"a", at::full({}, 2.0, at::kFloat)},
                                            {"i", at::full({1}, 258, at::kLong)}};
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  write_safetensors(path, tensors, metadata);
  // The bytes that the reference implementation writes: wide dtypes first, then by name; padded with spaces.
  std::string header =
      R"({"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"
      R"("z":{"dtype":"F32","shape":[1,2],"data_offsets":[12,20]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[20,21]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::string data("\x02\x01\0\0\0\0\0\0\0\0\0\x40\0\0\x80\x3f\0\0\x80\x3f\x01", 21);
  EXPECT_EQ(read_file(path), raw_safetensors(header, data));
  write_safetensors(directory / "again", {tensors[2], tensors[3], tensors[0], tensors[1]}, metadata);
  EXPECT_EQ(read_file(directory / "again"), raw_safetensors(header, data));
}

TEST(Safetensors, CopiesUnalignedTensors) {
  TemporaryDirectory directory;
  // One BOOL in front puts the float at an odd address.
  std::string header =
      object(entry("flag", "BOOL", "[1]", "[0,1]") + "," + entry("w", "F32", "[2]", "[1,9]"));
  header.resize((header.size() + 7) / 8 * 8, ' ');
  write_bytes(directory / "a", raw_safetensors(header, std::string("\x01\0\0\x80\x3f\0\0\0\x40", 9)));
  const auto file = SafetensorsFile::open(directory / "a");
  EXPECT_TRUE(at::equal(file->tensor("w"), at::arange(1, 3, at::kFloat)));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file->tensor("w").data_ptr()) % alignof(float), 0u);
  EXPECT_NE(file->tensor("w").data_ptr(), file->tensor("w").data_ptr());
  EXPECT_TRUE(file->tensor("flag").item<bool>());
}

TEST(Safetensors, ReadsWhatOthersMayWrite) {
  TemporaryDirectory directory;
  // Any order of entries and keys, blanks at the end, several empty tensors at one offset, an unknown key.
  const std::string header =
      object(entry("b", "F32", "[1]", "[2,6]") + "," + entry("e1", "F16", "[0]", "[2,2]") + "," +
             entry("e0", "I64", "[3,0]", "[2,2]") +
             R"(,"a":{"data_offsets":[0,2],"extra":1,"shape":[2],"dtype":"I8"})") +
      "   ";
  write_bytes(directory / "a", raw_safetensors(header, std::string(6, '\0')));
  const auto file = SafetensorsFile::open(directory / "a");
  EXPECT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensor("e0").sizes(), at::IntArrayRef({3, 0}));
  write_bytes(directory / "none", raw_safetensors("{}"));
  EXPECT_TRUE(SafetensorsFile::open(directory / "none")->tensors().empty());
}

TEST(Safetensors, RefusesTruncatedFiles) {
  EXPECT_THAT(refusal_of_bytes(""), HasSubstr("expected at least 8 bytes"));
  EXPECT_THAT(refusal_of_bytes("1234567"), HasSubstr("found 7"));
  const std::string whole = raw_safetensors(kOneFloat, std::string(4, '\0'));
  for (size_t size = 0; size < whole.size(); ++size) refusal_of_bytes(whole.substr(0, size));
  EXPECT_THAT(refusal_of_bytes(whole.substr(0, whole.size() - 1)),
              AllOf(HasSubstr("truncated"), HasSubstr("`w`")));
  EXPECT_THAT(refusal_of_bytes(whole + "x"), HasSubstr("expected 4 bytes of data"));
}

TEST(Safetensors, RefusesLyingHeaderLengths) {
  EXPECT_THAT(refusal_of_bytes(std::string("\x09\0\0\0\0\0\0\0{\"a\":1}", 15)),
              HasSubstr("claims to be 9 bytes"));
  EXPECT_THAT(refusal_of_bytes(std::string(8, '\xff') + "{}"), HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal_of_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(refusal_of_bytes(std::string("PK\x03\x04\0\0\0\0\0\0archive", 17)),
              HasSubstr("safe_serialization"));
  TemporaryDirectory directory;
  write_bytes(directory / "large", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10));  // 100,000,001
  std::filesystem::resize_file(directory / "large", 200'000'000);                   // sparse
  EXPECT_THAT(error_of(ErrorCode::kFormat, [&] { SafetensorsFile::open(directory / "large"); }),
              HasSubstr("expected at most 100000000"));
}

TEST(Safetensors, RefusesBadJson) {
  EXPECT_THAT(header_refusal("{\"w\":"), HasSubstr("expected JSON"));
  EXPECT_THAT(header_refusal("[]", 0), HasSubstr("starts with `{`"));
  EXPECT_THAT(header_refusal("", 0), HasSubstr("starts with `{`"));
  EXPECT_THAT(header_refusal(std::string(kOneFloat) + "}"), HasSubstr("expected JSON"));
  EXPECT_THAT(header_refusal("{\"\xff\":1}"), HasSubstr("expected JSON"));
  EXPECT_THAT(header_refusal(std::string(kOneFloat) + std::string(1, '\0') + "x"), HasSubstr("zero byte"));
  EXPECT_THAT(header_refusal("{\"w\":[[[1]]]}"), HasSubstr("levels deep"));
  EXPECT_THAT(header_refusal(fmt::format("{{\"w\":{}", std::string(100'000, '['))), HasSubstr("levels deep"));
  const std::string w = entry("w", "F32", "[1]", "[0,4]");
  EXPECT_THAT(header_refusal(object(w + "," + w)), AllOf(HasSubstr("`w`"), HasSubstr("twice")));
  EXPECT_THAT(header_refusal(R"({"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})"),
              HasSubstr("twice"));
}

TEST(Safetensors, RefusesBadEntries) {
  EXPECT_THAT(header_refusal(R"({"w":1})"),
              AllOf(HasSubstr("tensor `w`"), HasSubstr("expected an object, found 1")));
  EXPECT_THAT(header_refusal(R"({"w":{"dtype":"F32","shape":[1]}})"),
              HasSubstr("expected the key `data_offsets`"));
  EXPECT_THAT(header_refusal(object(entry("w", "F8_E4M3", "[4]", "[0,4]"))),
              AllOf(HasSubstr("F8_E4M3"), HasSubstr("bfloat16")));
  EXPECT_THAT(header_refusal(object(entry("w", "FLOAT", "[1]", "[0,4]"))),
              AllOf(HasSubstr("FLOAT"), HasSubstr("F64")));
  EXPECT_THAT(header_refusal(R"({"w":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})"), HasSubstr("found 7"));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "4", "[0,4]"))), HasSubstr("shape: expected a list"));
  for (const char* shape : {"[-1]", "[1.0]", "[\"1\"]", "[null]", "[true]", "[1e0]", "[[1]]", "[1e400]"}) {
    header_refusal(object(entry("w", "F32", shape, "[0,4]")));
  }
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[-1]", "[0,4]"))),
              HasSubstr("non-negative integer, found -1"));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[18446744073709551615]", "[0,4]"))),
              HasSubstr("2^63"));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[4294967296,4294967296]", "[0,4]"))),
              HasSubstr("larger than any"));
  // The product wraps to the right size, or is hidden behind a zero.
  header_refusal(object(entry("w", "F32", "[4611686018427387905]", "[0,4]")));
  header_refusal(object(entry("w", "F32", "[0,4294967296,4294967296]", "[0,0]")), 0);
  std::string many = "[1";
  for (int i = 0; i < 64; ++i) many += ",1";
  EXPECT_THAT(header_refusal(object(entry("w", "F32", many + "]", "[0,4]"))),
              HasSubstr("64 dimensions, found 65"));
}

TEST(Safetensors, RefusesBadRanges) {
  for (const char* offsets :
       {"[0]", "[0,4,8]", "4", "[-1,3]", "[0,4.0]", "[0,\"4\"]", "{}", "[0,18446744073709551616]"}) {
    EXPECT_THAT(header_refusal(object(entry("w", "F32", "[1]", offsets))), HasSubstr("data_offsets"))
        << offsets;
  }
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[1]", "[4,0]"))), HasSubstr("begin <= end"));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[2]", "[0,8]"))), HasSubstr("within the 4 bytes"));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[2]", "[0,4]"))),
              AllOf(HasSubstr("expected 8 bytes"), HasSubstr("found 4")));
  EXPECT_THAT(header_refusal(object(entry("w", "F32", "[1]", "[4,8]")), 8),
              HasSubstr("a gap after the header"));
  EXPECT_THAT(
      header_refusal(object(entry("a", "F32", "[1]", "[0,4]") + "," + entry("w", "F32", "[1]", "[2,6]")), 6),
      AllOf(HasSubstr("tensor `w`"), HasSubstr("overlaps tensor `a`")));
  EXPECT_THAT(
      header_refusal(object(entry("a", "F32", "[1]", "[0,4]") + "," + entry("w", "F32", "[1]", "[0,4]"))),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      header_refusal(object(entry("a", "F32", "[1]", "[0,4]") + "," + entry("w", "F32", "[1]", "[5,9]")), 9),
      HasSubstr("a gap after tensor `a`"));
  EXPECT_THAT(header_refusal(kOneFloat, 5), HasSubstr("expected 4 bytes of data after the header"));
  EXPECT_THAT(header_refusal("{}", 1), HasSubstr("expected 0 bytes"));
}

TEST(Safetensors, RefusesBadMetadata) {
  EXPECT_THAT(header_refusal(R"({"__metadata__":{"a":1}})", 0),
              AllOf(HasSubstr("__metadata__"), HasSubstr("expected a string")));
  EXPECT_THAT(header_refusal(R"({"__metadata__":[]})", 0), HasSubstr("object of strings"));
}

TEST(Safetensors, RefusesBytesThatAreNoBools) {
  TemporaryDirectory directory;
  write_bytes(directory / "a", raw_safetensors(object(entry("m", "BOOL", "[2]", "[0,2]")), "\x01\x02"));
  const auto file = SafetensorsFile::open(directory / "a");
  EXPECT_THAT(error_of(ErrorCode::kFormat, [&] { file->tensor("m"); }), HasSubstr("found 2 at element 1"));
}

TEST(Safetensors, NamesTheNearestTensor) {
  TemporaryDirectory directory;
  write_safetensors(directory / "a", {{"encoder.weight", at::ones({1})}});
  const auto file = SafetensorsFile::open(directory / "a");
  EXPECT_THAT(error_of(ErrorCode::kFormat, [&] { file->tensor("encoder.weigth"); }),
              HasSubstr("`encoder.weight`?"));
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { SafetensorsFile::open(directory / "b"); }),
              HasSubstr("No such file"));
}

TEST(Safetensors, WriterRefusesWhatItCannotHold) {
  TemporaryDirectory directory;
  const auto path = directory / "a";
  const at::Tensor one = at::ones({1});
  const auto refused = [&](std::vector<NamedTensor> tensors,
                           std::map<std::string, std::string> metadata = {}) {
    return error_of(ErrorCode::kUsage, [&] { write_safetensors(path, tensors, metadata); });
  };
  EXPECT_THAT(refused({{"w", one}, {"w", one}}), HasSubstr("given twice"));
  EXPECT_THAT(refused({{"w", at::Tensor()}}), HasSubstr("undefined"));
  EXPECT_THAT(refused({{"w", one.to(at::kComplexFloat)}}), HasSubstr("ComplexFloat"));
  EXPECT_THAT(refused({{"w", one.to_sparse()}}), HasSubstr("dense"));
  EXPECT_THAT(refused({{"__metadata__", one}}), HasSubstr("reserved"));
  EXPECT_THAT(refused({{"\xff", one}}), HasSubstr("UTF-8"));
  EXPECT_THAT(refused({{"w", one}}, {{"k", "\xff"}}), HasSubstr("UTF-8"));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

// Whatever bytes a file holds: it loads or throws Error. Run with the sanitizers this also shows that nothing
// outside the map is read.
TEST(Safetensors, SurvivesRandomDamage) {
  TemporaryDirectory directory;
  write_safetensors(directory / "whole", one_of_each(), {{"format", "pt"}});
  const std::string whole = read_file(directory / "whole");
  const auto path = directory / "damaged";
  RandomStream random(7, "safetensors damage");
  const std::string tokens = "{}[]\",:0123456789-e.\\ \xff";
  int loaded = 0, refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = whole;
    const auto flips = 1 + random.below(4);
    for (uint64_t flip = 0; flip < flips; ++flip) {
      char& byte = bytes[random.below(bytes.size())];
      byte =
          random.below(2) == 0 ? static_cast<char>(random.below(256)) : tokens[random.below(tokens.size())];
    }
    if (random.below(8) == 0) bytes.resize(random.below(bytes.size() + 1));
    write_bytes(path, bytes);
    try {
      const auto file = SafetensorsFile::open(path);
      for (const auto& item : file->tensors()) file->tensor(item.first).to(at::kDouble).sum();
      ++loaded;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace msplora
