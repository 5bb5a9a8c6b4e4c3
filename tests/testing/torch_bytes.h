#ifndef TESTS_TESTING_TORCH_BYTES_H_
#define TESTS_TESTING_TORCH_BYTES_H_

// Files of torch.save byte by byte, good and broken: pickle opcodes, zip records, the format before 1.6.

#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace waypoint {

inline std::string LittleEndian(uint64_t value, int width) {
  std::string out;
  for (int i = 0; i < width; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  }
  return out;
}

// --- Pickles -------------------------------------------------------------------------------------------------------

// With protocol 2 before and STOP behind.
inline std::string Pickle(absl::string_view body) { return absl::StrCat(absl::string_view("\x80\x02", 2), body, "."); }
inline std::string PickleText(absl::string_view text) { return absl::StrCat("X", LittleEndian(text.size(), 4), text); }
inline std::string PickleInt(int64_t value) {
  return absl::StrCat("\x8a\x08", LittleEndian(static_cast<uint64_t>(value), 8));
}
inline std::string PickleGlobal2(absl::string_view module, absl::string_view name) {
  return absl::StrCat("c", module, "\n", name, "\n");
}
inline std::string PickleTuple(const std::vector<std::string>& items) {
  std::string out = "(";
  for (const std::string& item : items) {
    out += item;
  }
  return out + "t";
}
inline std::string PickleInts(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) {
    items.push_back(PickleInt(value));
  }
  return PickleTuple(items);
}
inline std::string PickleDict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string out = "}(";
  for (const auto& [key, value] : items) {
    absl::StrAppend(&out, PickleText(key), value);
  }
  return out + "u";
}
inline std::string PickleOrderedDict() { return PickleGlobal2("collections", "OrderedDict") + ")R"; }
inline std::string PickleStorageId(absl::string_view type, absl::string_view key, int64_t numel) {
  return PickleTuple({PickleText("storage"), PickleGlobal2("torch", type), PickleText(key), PickleText("cpu"),
                      PickleInt(numel)}) +
         "Q";
}
// Any storage, offset, shape and strides, each as opcodes.
inline std::string PickleTensorOf(absl::string_view storage, absl::string_view offset, absl::string_view shape,
                                  absl::string_view strides) {
  return PickleGlobal2("torch._utils", "_rebuild_tensor_v2") +
         PickleTuple({std::string(storage), std::string(offset), std::string(shape), std::string(strides), "\x89",
                      PickleOrderedDict()}) +
         "R";
}
struct PickledTensor {
  std::string type = "FloatStorage";
  std::string key = "0";
  int64_t numel = 24;
  int64_t offset = 0;
  std::vector<int64_t> shape = {4, 6};
  std::vector<int64_t> strides = {6, 1};

  std::string ToString() const {
    return PickleTensorOf(PickleStorageId(type, key, numel), PickleInt(offset), PickleInts(shape), PickleInts(strides));
  }
};

// --- Archives ------------------------------------------------------------------------------------------------------

struct ZipItem {
  std::string name;
  std::string data;
  // torch.save: sizes and CRC in a descriptor behind the data, not in the local header.
  bool descriptor = true;
  // As entries of 4 GiB and more are described.
  bool wide = false;
  bool deflated = false;
  bool crc = true;
};

inline std::string RawDeflate(absl::string_view data) {
  std::string out(data.size() + data.size() / 8 + 256, '\0');
  z_stream stream = {};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    std::abort();
  }
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(&out[0]);
  stream.avail_out = static_cast<uInt>(out.size());
  if (deflate(&stream, Z_FINISH) != Z_STREAM_END) {
    std::abort();
  }
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// `end64`: the 64-bit end record that torch.save always writes.
inline std::string ZipBytes(const std::vector<ZipItem>& items, bool end64 = true, absl::string_view comment = "") {
  std::string out;
  std::string directory;
  for (const ZipItem& item : items) {
    const std::string stored = item.deflated ? RawDeflate(item.data) : item.data;
    const uint32_t crc =
        item.crc ? static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(item.data.data()), item.data.size()))
                 : 0;
    const uint16_t flags = item.descriptor ? 0x0808 : 0x0800;
    const uint16_t method = item.deflated ? 8 : 0;
    const size_t begin = out.size();
    const std::string fixed = LittleEndian(flags, 2) + LittleEndian(method, 2) + std::string(4, '\0');
    std::string extra = item.wide ? LittleEndian(1, 2) + LittleEndian(16, 2) + LittleEndian(item.data.size(), 8) +
                                        LittleEndian(item.descriptor ? 0 : stored.size(), 8)
                                  : "";
    const size_t unpadded = begin + 30 + item.name.size() + extra.size() + 4;
    const size_t padding = (64 - unpadded % 64) % 64;
    extra += "FB" + LittleEndian(padding, 2) + std::string(padding, 'Z');
    const bool zeros = item.descriptor;
    out += LittleEndian(0x04034b50, 4) + LittleEndian(0, 2) + fixed + LittleEndian(zeros ? 0 : crc, 4) +
           LittleEndian(zeros       ? 0
                        : item.wide ? 0xFFFFFFFF
                                    : stored.size(),
                        4) +
           LittleEndian(zeros       ? 0
                        : item.wide ? 0xFFFFFFFF
                                    : item.data.size(),
                        4) +
           LittleEndian(item.name.size(), 2) + LittleEndian(extra.size(), 2) + item.name + extra + stored;
    if (item.descriptor) {
      const int width = item.wide ? 8 : 4;
      out += LittleEndian(0x08074b50, 4) + LittleEndian(crc, 4) + LittleEndian(stored.size(), width) +
             LittleEndian(item.data.size(), width);
    }
    const std::string extra64 = item.wide ? LittleEndian(1, 2) + LittleEndian(16, 2) +
                                                LittleEndian(item.data.size(), 8) + LittleEndian(stored.size(), 8)
                                          : "";
    directory += LittleEndian(0x02014b50, 4) + LittleEndian(0, 4) + fixed + LittleEndian(crc, 4) +
                 LittleEndian(item.wide ? 0xFFFFFFFF : stored.size(), 4) +
                 LittleEndian(item.wide ? 0xFFFFFFFF : item.data.size(), 4) + LittleEndian(item.name.size(), 2) +
                 LittleEndian(extra64.size(), 2) + std::string(10, '\0') + LittleEndian(begin, 4) + item.name + extra64;
  }
  const size_t begin = out.size();
  out += directory;
  if (end64) {
    const size_t at = out.size();
    out += LittleEndian(0x06064b50, 4) + LittleEndian(44, 8) + LittleEndian(0x002D002D, 4) + std::string(8, '\0') +
           LittleEndian(items.size(), 8) + LittleEndian(items.size(), 8) + LittleEndian(directory.size(), 8) +
           LittleEndian(begin, 8);
    out += LittleEndian(0x07064b50, 4) + LittleEndian(0, 4) + LittleEndian(at, 8) + LittleEndian(1, 4);
  }
  return out + LittleEndian(0x06054b50, 4) + std::string(4, '\0') + LittleEndian(items.size(), 2) +
         LittleEndian(items.size(), 2) + LittleEndian(directory.size(), 4) + LittleEndian(begin, 4) +
         LittleEndian(comment.size(), 2) + std::string(comment);
}

// The entries that torch.save writes; storages are named by position.
inline std::vector<ZipItem> TorchItems(absl::string_view pickle, const std::vector<std::string>& storages) {
  std::vector<ZipItem> items = {{"archive/data.pkl", std::string(pickle)}, {"archive/byteorder", "little"}};
  for (size_t i = 0; i < storages.size(); ++i) {
    items.push_back({absl::StrCat("archive/data/", i), storages[i]});
  }
  items.push_back({"archive/version", "3\n"});
  return items;
}
inline std::string TorchBytes(absl::string_view pickle, const std::vector<std::string>& storages) {
  return ZipBytes(TorchItems(pickle, storages));
}

// --- Before 1.6 ----------------------------------------------------------------------------------------------------

inline std::string LegacyBytes(absl::string_view object_pickle, const std::vector<std::string>& keys,
                               const std::vector<std::pair<int64_t, std::string>>& storages,
                               bool little_endian = true) {
  std::string out =
      Pickle("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") + Pickle("M\xe9\x03") +
      Pickle(PickleDict({{"protocol_version", "M\xe9\x03"}, {"little_endian", little_endian ? "\x88" : "\x89"}})) +
      std::string(object_pickle);
  std::string list = "](";
  for (const std::string& key : keys) {
    list += PickleText(key);
  }
  out += Pickle(list + "e");
  for (const auto& [numel, data] : storages) {
    out += LittleEndian(static_cast<uint64_t>(numel), 8) + data;
  }
  return out;
}

}  // namespace waypoint

#endif  // TESTS_TESTING_TORCH_BYTES_H_
