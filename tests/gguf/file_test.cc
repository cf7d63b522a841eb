#include "msplora/gguf/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "error_text.h"
#include "gguf/gguf_bytes.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

class GgufFileTest : public ::testing::Test {
 protected:
  fs::path file(const std::string& name = "model.gguf") const { return directory_ / name; }

  std::string error_of(const std::string& bytes) const {
    GgufBytes::write_bytes(file(), bytes);
    return error_text([&] { GgufFile::open(file()); });
  }

  const TemporaryDirectory directory_;
};

GgufBytes small_file() {
  GgufBytes bytes;
  bytes.string("general.architecture", "llama").u32("llama.block_count", 2);
  bytes.f32("llama.rope.freq_base", 5e5F).flag("tokenizer.ggml.add_bos_token", true);
  bytes.strings("tokenizer.ggml.tokens", {"a", "", "\xE2\x96\x81"});
  bytes.array<float>("tokenizer.ggml.scores", 6, {0.5F, -1.0F, 2.0F});
  bytes.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 3, 6});
  bytes.key("wide", 10, GgufBytes::raw<uint64_t>(1ULL << 40)).key("narrow", 1, "\xFE");
  bytes.f32_tensor("first.weight", {3, 2}, {1, 2, 3, 4, 5, 6});
  bytes.tensor("second.weight", {32}, 8, std::string("\x00\x38\x80\x7F", 4) + std::string(30, '\0'));
  bytes.f32_tensor("empty", {0, 7}, {});
  bytes.f32_tensor("last", {1}, {9});
  return bytes;
}

TEST_F(GgufFileTest, HoldsKeysAndTensors) {
  const auto opened = GgufFile::open(small_file().write(file()));
  EXPECT_THAT(opened->text("general.architecture"), Optional(std::string_view("llama")));
  EXPECT_THAT(opened->integer("llama.block_count"), Optional(2));
  EXPECT_THAT(opened->integer("wide"), Optional(1LL << 40));
  EXPECT_THAT(opened->integer("narrow"), Optional(-2));
  EXPECT_THAT(opened->number("llama.rope.freq_base"), Optional(5e5));
  EXPECT_THAT(opened->flag("tokenizer.ggml.add_bos_token"), Optional(true));
  EXPECT_THAT(opened->texts("tokenizer.ggml.tokens"), Optional(ElementsAre("a", "", "\xE2\x96\x81")));
  EXPECT_THAT(opened->numbers("tokenizer.ggml.scores"), Optional(ElementsAre(0.5F, -1.0F, 2.0F)));
  EXPECT_THAT(opened->integers("tokenizer.ggml.token_type"), Optional(ElementsAre(1, 3, 6)));
  EXPECT_THAT(opened->integers("llama.block_count"), Optional(ElementsAre(2)));
  EXPECT_EQ(opened->integer("absent"), std::nullopt);

  ASSERT_EQ(opened->tensors().size(), 4U);
  const GgufTensor& first = opened->tensors()[0];
  EXPECT_THAT(first.shape(), ElementsAre(2, 3));
  std::vector<float> values(6);
  dequantise(first.type, first.data, first.elements(), values.data());
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  const GgufTensor* second = opened->find("second.weight");
  ASSERT_NE(second, nullptr);
  values.resize(32);
  dequantise(second->type, second->data, 1, values.data());
  EXPECT_EQ(values[0], -64.0F);
  EXPECT_EQ(values[1], 63.5F);
  EXPECT_EQ(opened->find("empty")->bytes, 0U);
  EXPECT_EQ(opened->find("third"), nullptr);
}

TEST_F(GgufFileTest, ValuesOfAnotherKindAreNamed) {
  const auto opened = GgufFile::open(small_file().write(file()));
  const auto error = [&](auto read) { return error_text([&] { read(*opened); }); };
  EXPECT_THAT(error([](const GgufFile& f) { f.integer("general.architecture"); }),
              HasSubstr("model.gguf: general.architecture: expected an integer, found string"));
  EXPECT_THAT(error([](const GgufFile& f) { f.integer("tokenizer.ggml.token_type"); }),
              HasSubstr("expected an integer, found an array of 3 i32"));
  EXPECT_THAT(error([](const GgufFile& f) { f.integer("llama.rope.freq_base"); }),
              HasSubstr("expected an integer, found f32"));
  EXPECT_THAT(error([](const GgufFile& f) { f.text("wide"); }), HasSubstr("expected a string, found u64"));
  EXPECT_THAT(error([](const GgufFile& f) { f.flag("narrow"); }),
              HasSubstr("expected true or false, found i8"));
  EXPECT_THAT(error([](const GgufFile& f) { f.number("general.architecture"); }),
              HasSubstr("expected a number, found string"));
  EXPECT_THAT(error([](const GgufFile& f) { f.texts("tokenizer.ggml.scores"); }),
              HasSubstr("expected an array of strings, found an array of 3 f32"));
  EXPECT_THAT(error([](const GgufFile& f) { f.numbers("tokenizer.ggml.tokens"); }),
              HasSubstr("expected an array of numbers, found an array of 3 string"));
  EXPECT_THAT(error([](const GgufFile& f) { f.integers("tokenizer.ggml.scores"); }),
              HasSubstr("expected integers, found an array of 3 f32"));
  EXPECT_THAT(error([](const GgufFile& f) { f.need(f.integer("llama.block_cnt"), "llama.block_cnt"); }),
              HasSubstr("llama.block_cnt: the key is missing (did you mean `llama.block_count`?)"));
}

TEST_F(GgufFileTest, HeadersThatAreNotRead) {
  const auto with = [](auto change) {
    GgufBytes bytes = small_file();
    change(bytes);
    return bytes.bytes();
  };
  EXPECT_THAT(error_of(""), HasSubstr("expected a GGUF file"));
  EXPECT_THAT(error_of("version https://git-lfs.github.com/spec/v1"), HasSubstr("git lfs pull"));
  EXPECT_THAT(error_of("<html>"), HasSubstr("web page"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.magic = "GGML"; })),
              HasSubstr("begins with the letters GGUF"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.version = 1; })), HasSubstr("version 2 or 3, found 1"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.version = 4; })), HasSubstr("version 2 or 3, found 4"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.version = 3U << 24; })), HasSubstr("big-endian"));
  EXPECT_EQ(error_of(with([](GgufBytes& b) { b.version = 2; })), "no error");
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.more_tensors = 1'000'000; })),
              HasSubstr("the number of tensors: expected at most"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.more_tensors = -5; })), HasSubstr("found -1"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.more_keys = int64_t{1} << 60; })),
              HasSubstr("the number of keys: expected at most"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.more_keys = 1; })), HasSubstr("model.gguf"));
}

TEST_F(GgufFileTest, KeysThatAreNotRead) {
  const auto with = [](auto change) {
    GgufBytes bytes;
    bytes.string("general.architecture", "llama");
    change(bytes);
    bytes.f32_tensor("a", {1}, {1});
    return bytes.bytes();
  };
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.u32("general.architecture", 1); })),
              HasSubstr("`general.architecture`: the key is there twice"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.u32("", 1); })), HasSubstr("a key is empty"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.key("k", 13, "1234"); })),
              HasSubstr("`k`: the type of the value: expected a number from 0 to 12, found 13"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.key("k", -1, "1234"); })), HasSubstr("found -1"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.key("k", 7, "\x02"); })), HasSubstr("expected 0 or 1"));
  const std::string inner = GgufBytes::raw<int32_t>(9) + GgufBytes::raw<uint64_t>(1);
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.key("k", 9, inner); })), HasSubstr("arrays of arrays"));
  for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 40, ~uint64_t{0}}) {
    for (const int32_t type : {4, 8, 10, 0}) {
      const std::string huge = GgufBytes::raw(type) + GgufBytes::raw(count);
      EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.key("k", 9, huge); })),
                  HasSubstr("`k`: the array claims"));
    }
    EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.key("k", 8, GgufBytes::raw(count)); })),
                HasSubstr("a string claims"));
  }
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.u32("general.alignment", 48); })),
              HasSubstr("general.alignment: expected a power of two, found 48"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.u32("general.alignment", 0); })), HasSubstr("found 0"));
  EXPECT_THAT(error_of(with([](GgufBytes& b) { b.string("general.alignment", "32"); })),
              HasSubstr("general.alignment: expected an integer, found string"));
}

TEST_F(GgufFileTest, TensorsThatAreNotRead) {
  const auto with = [](auto change) {
    GgufBytes bytes;
    bytes.f32_tensor("a.weight", {4}, {1, 2, 3, 4});
    change(bytes);
    return bytes.bytes();
  };
  const std::string block(34, '\0');
  EXPECT_THAT(
      error_of(with([&](GgufBytes& b) { b.tensor("b", {31}, 8, block); })),
      HasSubstr("tensor `b`: expected rows in whole blocks of 32 as Q8_0 has them, found rows of 31"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("b", {256}, 16, block); })),
              HasSubstr("tensors of IQ2_XXS (type 16) are not read"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("b", {256}, 999, block); })),
              HasSubstr("tensors of type 999 are not read"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) {
                b.tensor("b", {1, 1, 1, 1, 1}, 0, block);
              })),
              HasSubstr("expected at most 4 dimensions, found 5"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("b", {-32}, 8, block); })),
              HasSubstr("sizes of at least 0, found -32"));
  const int64_t huge = int64_t{1} << 40;
  EXPECT_THAT(error_of(with([&](GgufBytes& b) {
                b.tensor("b", {huge, huge}, 8, block);
              })),
              HasSubstr("larger than any file"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("b", {huge}, 8, block); })),
              HasSubstr("beyond the file's end"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("a.weight", {32}, 8, block); })),
              HasSubstr("tensor `a.weight`: a tensor of this name is there twice"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("", {32}, 8, block); })),
              HasSubstr("expected a name of 1 to 63 bytes, found 0"));
  EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor(std::string(64, 'x'), {32}, 8, block); })),
              HasSubstr("found 64"));
  for (const int64_t error : {1, -1, 32, -32}) {
    EXPECT_THAT(error_of(with([&](GgufBytes& b) { b.tensor("b", {32}, 8, block, error); })),
                HasSubstr("tensor `b`: expected its data at 32, behind those before it"));
  }
}

TEST_F(GgufFileTest, OtherAlignments) {
  for (const uint32_t alignment : {8U, 64U, 4096U}) {
    GgufBytes bytes;
    bytes.alignment = alignment;
    bytes.u32("general.alignment", alignment);
    bytes.f32_tensor("a", {1}, {1}).f32_tensor("b", {2}, {2, 3});
    const auto opened = GgufFile::open(bytes.write(file()));
    float value = 0;
    dequantise(GgufType::kF32, opened->find("b")->data, 1, &value);
    EXPECT_EQ(value, 2.0F) << alignment;
  }
}

// Every place where a file can be cut off is an error, but for the padding behind the last tensor.
TEST_F(GgufFileTest, FilesThatAreCutOff) {
  const std::string whole = small_file().bytes();
  const size_t needed = whole.size() - 32 + sizeof(float);
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string error = error_of(whole.substr(0, size));
    if (size < needed) {
      EXPECT_THAT(error, HasSubstr("model.gguf")) << size;
    } else {
      EXPECT_EQ(error, "no error") << size;
    }
  }
}

// Whatever a file holds, it is read or refused: what is read can be read to its end.
TEST_F(GgufFileTest, DamagedFilesNeverCrash) {
  const std::string whole = small_file().bytes();
  std::mt19937 random(7);
  int refused = 0, read = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = whole;
    for (unsigned flips = 1 + random() % 4; flips > 0; --flips) {
      // Headers are where it matters; a byte of all, or a bit, or eight bytes of ones.
      const size_t at = random() % bytes.size();
      if (random() % 3 == 0)
        bytes[at] = static_cast<char>(random());
      else if (random() % 2 == 0)
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
      else
        bytes.replace(at, std::min<size_t>(8, bytes.size() - at),
                      std::string(8, '\xFF').substr(0, std::min<size_t>(8, bytes.size() - at)));
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    GgufBytes::write_bytes(file(), bytes);
    try {
      const auto opened = GgufFile::open(file());
      double sum = 0;
      for (const GgufTensor& tensor : opened->tensors()) {
        const GgufTypeInfo& info = gguf_type_info(tensor.type);
        if (!info.is_real) continue;
        ASSERT_LT(tensor.bytes, bytes.size());
        std::vector<float> values(static_cast<size_t>(tensor.elements()));
        dequantise(tensor.type, tensor.data, tensor.elements() / info.elements, values.data());
        for (const float value : values) sum += value;
      }
      for (const auto& [key, value] : opened->values()) {
        if (value.is_array && value.type == GgufValueType::kString)
          for (const std::string_view text : *opened->texts(key)) sum += static_cast<double>(text.size());
      }
      EXPECT_TRUE(sum == sum || sum != sum);
      ++read;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(read, 20);
}

TEST_F(GgufFileTest, PartsAreReadAsOne) {
  const auto part = [](uint16_t number) {
    GgufBytes bytes;
    bytes.key("split.no", 2, GgufBytes::raw(number)).key("split.count", 2, GgufBytes::raw<uint16_t>(3));
    bytes.key("split.tensors.count", 5, GgufBytes::raw<int32_t>(3));
    return bytes;
  };
  GgufBytes first = part(0), second = part(1), third = part(2);
  first.string("general.architecture", "llama");
  second.f32_tensor("a", {1}, {1}).f32_tensor("b", {1}, {2});
  third.f32_tensor("c", {1}, {3});
  first.write(file("m-00001-of-00003.gguf"));
  second.write(file("m-00002-of-00003.gguf"));
  EXPECT_THAT(error_text([&] { GgufFile::open(file("m-00001-of-00003.gguf")); }),
              HasSubstr("parts of the model are missing: m-00003-of-00003.gguf"));
  third.write(file("m-00003-of-00003.gguf"));
  for (const char* name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const auto opened = GgufFile::open(file(name));
    EXPECT_THAT(opened->text("general.architecture"), Optional(std::string_view("llama")));
    ASSERT_EQ(opened->tensors().size(), 3U);
    float value = 0;
    dequantise(GgufType::kF32, opened->find("c")->data, 1, &value);
    EXPECT_EQ(value, 3.0F);
  }
  third.write(file("other.gguf"));
  EXPECT_THAT(error_text([&] { GgufFile::open(file("other.gguf")); }),
              HasSubstr("this is part 3 of 3, expected a name that ends in -00003-of-00003.gguf"));
  third.f32_tensor("d", {1}, {4}).write(file("m-00003-of-00003.gguf"));
  EXPECT_THAT(error_text([&] { GgufFile::open(file("m-00001-of-00003.gguf")); }),
              HasSubstr("split.tensors.count: expected the 4 tensors of all parts, found 3"));
}

TEST_F(GgufFileTest, PathsThatAreGguf) {
  small_file().write(file("no-extension"));
  GgufBytes::write_bytes(file("text.txt"), "GGU");
  GgufBytes::write_bytes(file("bad.gguf"), "?");
  EXPECT_TRUE(is_gguf_path(file("no-extension")));
  EXPECT_TRUE(is_gguf_path(file("bad.gguf")));
  EXPECT_FALSE(is_gguf_path(file("text.txt")));
  EXPECT_FALSE(is_gguf_path(directory_.path()));
  EXPECT_FALSE(is_gguf_path(file("absent.gguf")));
}

}  // namespace
}  // namespace msplora
