#include "checkpoint/container/torch_zip/zip_entry_stream.h"

#include <zlib.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/crc32.h"

namespace waypoint {
namespace {

// zlib counts in unsigned int.
constexpr int64_t kPieceBytes = int64_t{64} << 10;
// What zlib holds for a stream, about: its window and tables (zconf.h).
constexpr size_t kWindowBytes = (size_t{1} << MAX_WBITS) + (7 << 10);

absl::Status NoWindow() {
  return NoMemoryError(kWindowBytes, "zlib, to decompress an entry", "lower what the process holds, or the threads");
}

}  // namespace

struct ZipEntryStream::Inflater {
  // Raw deflate data, without zlib's own header.
  Inflater() : started(inflateInit2(&stream, -MAX_WBITS)) {}
  ~Inflater() {
    if (started == Z_OK) {
      inflateEnd(&stream);
    }
  }

  z_stream stream = {};
  const int started;
  bool ended = false;
  std::vector<char> input = std::vector<char>(kPieceBytes);
};

ZipEntryStream::ZipEntryStream(const ReadableFile& file, const ZipEntry& entry)
    : file_(file), entry_(entry), inflater_(entry.deflated ? std::make_unique<Inflater>() : nullptr) {}

ZipEntryStream::~ZipEntryStream() = default;

absl::Status ZipEntryStream::Error(absl::string_view problem) const {
  return MakeError(ErrorKind::kZip, absl::StrCat(QuotedPath(file_.path()), ": entry ", Quoted(entry_.name), " at ",
                                                 entry_.data_begin, ": ", problem));
}

absl::Status ZipEntryStream::Read(absl::Span<char> out) {
  if (static_cast<int64_t>(out.size()) > entry_.bytes - position_) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("entry ", Quoted(entry_.name), " has ", entry_.bytes,
                                                       " bytes, asked for ", out.size(), " at ", position_));
  }
  if (inflater_ == nullptr) {
    WAYPOINT_RETURN_IF_ERROR(file_.Read(entry_.data_begin + position_, out));
  } else {
    WAYPOINT_RETURN_IF_ERROR(Inflate(out));
  }
  crc32_ = ExtendCrc32(crc32_, out);
  position_ += out.size();
  return position_ == entry_.bytes ? CheckEnd() : absl::OkStatus();
}

absl::Status ZipEntryStream::Skip(int64_t bytes) {
  std::vector<char> piece(std::min(bytes, kPieceBytes));
  while (bytes > 0) {
    const int64_t now = std::min(bytes, kPieceBytes);
    WAYPOINT_RETURN_IF_ERROR(Read(absl::MakeSpan(piece.data(), now)));
    bytes -= now;
  }
  return absl::OkStatus();
}

absl::Status ZipEntryStream::Inflate(absl::Span<char> out) {
  if (inflater_->started != Z_OK) {
    return inflater_->started == Z_MEM_ERROR ? NoWindow() : absl::InternalError("zlib cannot be started");
  }
  z_stream& stream = inflater_->stream;
  while (!out.empty()) {
    if (inflater_->ended) {
      return Error(absl::StrCat("compressed data ends after ", stream.total_out, " bytes, must give ", entry_.bytes));
    }
    if (stream.avail_in == 0) {
      const int64_t now = std::min(kPieceBytes, entry_.stored_bytes - stored_position_);
      WAYPOINT_RETURN_IF_ERROR(
          file_.Read(entry_.data_begin + stored_position_, absl::MakeSpan(inflater_->input.data(), now)));
      stored_position_ += now;
      stream.next_in = reinterpret_cast<Bytef*>(inflater_->input.data());
      stream.avail_in = static_cast<uInt>(now);
    }
    const int64_t wanted = std::min<int64_t>(out.size(), kPieceBytes);
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(wanted);
    const int result = inflate(&stream, Z_NO_FLUSH);
    const int64_t made = wanted - stream.avail_out;
    out.remove_prefix(made);
    inflater_->ended = result == Z_STREAM_END;
    if (result == Z_MEM_ERROR) {
      return NoWindow();
    }
    // Z_BUF_ERROR: nothing could be done, so the data is over before its end mark.
    if (result != Z_OK && result != Z_STREAM_END) {
      return Error(absl::StrCat("compressed data is broken after ", stream.total_in,
                                " bytes: ", stream.msg == nullptr ? "it is cut short" : stream.msg));
    }
  }
  return absl::OkStatus();
}

absl::Status ZipEntryStream::CheckEnd() {
  if (inflater_ != nullptr) {
    // The end mark may still be to come; it makes no bytes.
    char none = 0;
    z_stream& stream = inflater_->stream;
    while (!inflater_->ended && (stream.avail_in > 0 || stored_position_ < entry_.stored_bytes)) {
      if (stream.avail_in == 0) {
        const int64_t now = std::min(kPieceBytes, entry_.stored_bytes - stored_position_);
        WAYPOINT_RETURN_IF_ERROR(
            file_.Read(entry_.data_begin + stored_position_, absl::MakeSpan(inflater_->input.data(), now)));
        stored_position_ += now;
        stream.next_in = reinterpret_cast<Bytef*>(inflater_->input.data());
        stream.avail_in = static_cast<uInt>(now);
      }
      stream.next_out = reinterpret_cast<Bytef*>(&none);
      stream.avail_out = 1;
      const int result = inflate(&stream, Z_NO_FLUSH);
      inflater_->ended = result == Z_STREAM_END;
      if (stream.avail_out == 0 || (result != Z_OK && result != Z_STREAM_END)) {
        break;
      }
    }
    if (!inflater_->ended || stream.avail_in > 0 || stored_position_ < entry_.stored_bytes ||
        stream.total_out != static_cast<uLong>(entry_.bytes)) {
      return Error(absl::StrCat("compressed data does not end after ", entry_.stored_bytes, " bytes, having given ",
                                entry_.bytes));
    }
  }
  if (entry_.crc32 != 0 && entry_.crc32 != crc32_) {
    return MakeError(ErrorKind::kChecksum,
                     absl::StrCat(QuotedPath(file_.path()), ": entry ", Quoted(entry_.name), " at ", entry_.data_begin,
                                  absl::StrFormat(" has CRC-32 %08x, the archive says %08x", crc32_, entry_.crc32),
                                  "; the file was damaged after it was written"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadZipEntry(const ReadableFile& file, const ZipEntry& entry, int64_t max_bytes,
                                         absl::string_view limit_name) {
  if (entry.bytes > max_bytes) {
    return MakeError(ErrorKind::kLimit, absl::StrCat(QuotedPath(file.path()), ": entry ", Quoted(entry.name), " has ",
                                                     entry.bytes, " bytes, over ", limit_name, " = ", max_bytes));
  }
  std::string contents(entry.bytes, '\0');
  ZipEntryStream stream(file, entry);
  WAYPOINT_RETURN_IF_ERROR(stream.Read(absl::MakeSpan(&contents[0], contents.size())));
  return contents;
}

}  // namespace waypoint
