#include "checkpoint/container/run_reader.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {
namespace {

// From here on a piece is read past the page cache, in whole pages, which are little beside it.
constexpr int64_t kLargePieceBytes = 64 << 10;
// A shorter piece is not worth a call of its own.
constexpr int64_t kTinyPieceBytes = 32;
// Windows end at multiples of this at least, so that they cut no element that lies at a multiple of its size.
constexpr int64_t kElementAlignment = 8;
// Small pieces that the kernel is told of ahead, so that the device has a queue.
constexpr size_t kPiecesAhead = 256;

bool ComesBefore(const FileRun& a, const FileRun& b) { return std::tie(a.file, a.offset) < std::tie(b.file, b.offset); }

// Copies the bytes [begin, end) of the file, which `data` holds, as far as the run wants them.  Elements may be cut,
// unless they are cast.
void CopyPart(const FileRun& run, int64_t begin, int64_t end, char* data) {
  int64_t done = std::max(begin, run.offset) - run.offset;
  const int64_t stop = std::min(end, run.end()) - run.offset;
  if (done >= stop) {
    return;
  }
  data += run.offset + done - begin;
  if (run.cast != nullptr) {
    run.cast->Apply(data, run.to + done / run.element_bytes * run.to_stride, run.to_stride,
                    (stop - done) / run.element_bytes);
    return;
  }
  const bool dense = run.to_stride == run.element_bytes;
  const int64_t element_bytes = dense ? 1 : run.element_bytes;
  const int64_t stride = dense ? 1 : run.to_stride;
  while (done < stop) {
    const int64_t element = done / element_bytes;
    const int64_t within = done % element_bytes;
    const int64_t whole = within == 0 ? (stop - done) / element_bytes : 0;
    int64_t bytes = whole * element_bytes;
    if (whole > 0) {
      StridedSpan to;
      to.data = run.to + element * stride;
      to.element_bytes = static_cast<int>(element_bytes);
      to.sizes = {whole};
      to.strides = {stride};
      CopyStrided(StridedSpan::Contiguous(data, to.element_bytes, {whole}), to);
    } else {
      bytes = std::min(element_bytes - within, stop - done);
      std::memcpy(run.to + element * stride + within, data, bytes);
    }
    done += bytes;
    data += bytes;
  }
}

// Bytes of a file.
struct Piece {
  int64_t begin = 0;
  int64_t end = 0;
  // Whole grains, to be checked.
  bool grains = false;

  int64_t bytes() const { return end - begin; }
  bool small() const { return !grains && bytes() < kLargePieceBytes; }
};

// Puts pieces together that are better read at once.  In place.
void MergePieces(int64_t gap_bytes, double max_over_read, std::vector<Piece>& pieces) {
  size_t kept = 0;
  for (const Piece& piece : pieces) {
    if (kept > 0) {
      Piece& last = pieces[kept - 1];
      const int64_t gap = piece.begin - last.end;
      const int64_t shorter = std::min(piece.bytes(), last.bytes());
      const bool little = static_cast<double>(gap) <= static_cast<double>(shorter) * max_over_read / 2;
      if (gap <= 0 || (gap <= gap_bytes && (shorter < kTinyPieceBytes || little))) {
        last.end = std::max(last.end, piece.end);
        continue;
      }
    }
    pieces[kept++] = piece;
  }
  pieces.resize(kept);
}

}  // namespace

// The runs of one batch in one file.
class RunReader::FileRead {
 public:
  // `runs` are sorted.
  FileRead(RunReader& reader, SharedChunks* shared, absl::Span<const FileRun> runs, int64_t batch_bytes)
      : reader_(reader),
        shared_(shared),
        runs_(runs),
        number_(runs[0].file),
        description_(reader.files_[number_]),
        // What is read along must not need more memory than ScratchBytes says.
        window_bytes_(std::min(std::max(batch_bytes, 2 * (kDigestChunkBytes - description_.grain_bytes)),
                               reader.options_.window_bytes)) {}

  ~FileRead() {
    for (size_t i = published_; i < owned_.size(); ++i) {
      shared_->GiveUp(owned_[i].entry);
    }
    for (const Shared& one : guests_) {
      shared_->Leave(one.entry);
    }
  }

  absl::Status Run() {
    WAYPOINT_ASSIGN_OR_RETURN(file_, reader_.OpenFile(number_));
    PlanPieces();
    WAYPOINT_RETURN_IF_ERROR(ReadOwn());
    // Last, when nobody waits for this read any more.
    return ReadShared();
  }

 private:
  // A chunk that this read has from another one, or makes for others.
  struct Shared {
    int64_t begin = 0;
    std::shared_ptr<SharedChunks::Entry> entry;
  };

  // What to read: the union of the runs, in whole grains where they are checked.
  void PlanPieces() {
    std::vector<Piece> wanted;
    for (const FileRun& run : runs_) {
      ends_.push_back(std::max(run.end(), ends_.empty() ? 0 : ends_.back()));
      if (!wanted.empty() && run.offset <= wanted.back().end) {
        wanted.back().end = std::max(wanted.back().end, run.end());
      } else {
        wanted.push_back({run.offset, run.end()});
      }
    }
    if (!description_.checked_by_grain) {
      pieces_ = std::move(wanted);
      MergePieces(reader_.options_.gap_bytes, reader_.options_.max_over_read, pieces_);
      return;
    }
    std::vector<Piece> grains;
    std::vector<Piece> parts;
    std::vector<Piece> of_grain;
    for (size_t i = 0; i < wanted.size();) {
      // All that is wanted of one grain.  A piece that goes on is cut and looked at again.
      const int64_t grain = AlignDown(wanted[i].begin, description_.grain_bytes);
      const int64_t end = grain + description_.grain_bytes;
      of_grain.clear();
      int64_t bytes = 0;
      for (; i < wanted.size() && wanted[i].begin < end; ++i) {
        of_grain.push_back({wanted[i].begin, std::min(wanted[i].end, end)});
        bytes += of_grain.back().bytes();
        if (wanted[i].end > end) {
          wanted[i].begin = end;
          break;
        }
      }
      AddGrain(grain, bytes, of_grain, grains, parts);
    }
    MergePieces(0, 0, grains);
    MergePieces(reader_.options_.gap_bytes, reader_.options_.max_over_read, parts);
    pieces_.resize(grains.size() + parts.size());
    std::merge(grains.begin(), grains.end(), parts.begin(), parts.end(), pieces_.begin(),
               [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  }

  void AddGrain(int64_t begin, int64_t bytes, const std::vector<Piece>& wanted, std::vector<Piece>& grains,
                std::vector<Piece>& parts) {
    const int64_t end = std::min(begin + description_.grain_bytes, description_.file_bytes);
    SharedChunks::Taken taken;
    if (shared_ != nullptr) {
      taken = shared_->Take(number_, begin / description_.grain_bytes, bytes);
    }
    absl::Cleanup put_back = [this, &taken] {
      // There was no memory to note it down, and others wait for what it promises.
      if (taken.use == SharedChunks::kOwner) {
        shared_->GiveUp(taken.entry);
      } else if (taken.use == SharedChunks::kGuest) {
        shared_->Leave(taken.entry);
      }
    };
    switch (taken.use) {
      case SharedChunks::kParts:
        reader_.bytes_unchecked_ += bytes;
        parts.insert(parts.end(), wanted.begin(), wanted.end());
        return;
      case SharedChunks::kGuest:
        guests_.push_back({begin, taken.entry});
        std::move(put_back).Cancel();
        return;
      case SharedChunks::kOwner:
        owned_.push_back({begin, taken.entry});
        break;
      case SharedChunks::kAlone:
        break;
    }
    std::move(put_back).Cancel();
    grains.push_back({begin, end, true});
  }

  absl::Status ReadOwn() {
    int64_t largest = 0;
    for (const Piece& piece : pieces_) {
      largest = std::max(largest, ScratchBytesOf(piece));
    }
    const BufferPool::Lease lease = reader_.scratch_.Get(largest);
    size_t announced = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      if (pieces_[i].small() && announced < i + kPiecesAhead / 2) {
        announced = Announce(std::max(i, announced), i + kPiecesAhead);
      }
      WAYPOINT_RETURN_IF_ERROR(ReadPiece(pieces_[i], lease.data()));
    }
    return absl::OkStatus();
  }

  int64_t GrainOf(const Piece& piece) const {
    return description_.checked_by_grain && !piece.grains ? kDirectAlignment
                                                          : std::max(description_.grain_bytes, kElementAlignment);
  }
  // What is read of a large piece at once.
  int64_t WindowBytes(const Piece& piece) const { return std::min(piece.bytes(), window_bytes_) + 2 * GrainOf(piece); }
  int64_t ScratchBytesOf(const Piece& piece) const {
    return piece.small() || piece.grains ? std::min(piece.bytes(), WindowBytes(piece)) : WindowBytes(piece);
  }

  // Tells the kernel of the small pieces among [first, last); where those end.
  size_t Announce(size_t first, size_t last) {
    last = std::min(last, pieces_.size());
    Piece pages;
    const auto tell = [this, &pages] {
      if (pages.bytes() > 0) {
        file_->WillRead(pages.begin, pages.bytes());
      }
    };
    for (size_t i = first; i < last; ++i) {
      if (!pieces_[i].small()) {
        continue;
      }
      const Piece next = {AlignDown(pieces_[i].begin, kDirectAlignment), AlignUp(pieces_[i].end, kDirectAlignment)};
      if (next.begin > pages.end || pages.bytes() == 0) {
        tell();
        pages = next;
      }
      pages.end = std::max(pages.end, next.end);
    }
    tell();
    return last;
  }

  absl::Status ReadPiece(const Piece& piece, char* memory) {
    if (piece.small()) {
      // In one, unless windows are even smaller.
      const int64_t most_bytes = ScratchBytesOf(piece);
      for (int64_t begin = piece.begin; begin < piece.end;) {
        const int64_t end =
            piece.end - begin <= most_bytes ? piece.end : AlignDown(begin + most_bytes, kElementAlignment);
        WAYPOINT_RETURN_IF_ERROR(ReadBytes(begin, end, piece, memory));
        begin = end;
      }
      return absl::OkStatus();
    }
    const int64_t grain_bytes = GrainOf(piece);
    const int64_t most = WindowBytes(piece);
    const int64_t end = std::min(AlignUp(piece.end, grain_bytes), description_.file_bytes);
    for (int64_t begin = AlignDown(piece.begin, grain_bytes); begin < end;) {
      // Windows end on a grain, so that none is read twice.
      const int64_t window_end =
          end - begin <= most ? end : AlignDown(begin + std::max(window_bytes_, grain_bytes), grain_bytes);
      WAYPOINT_RETURN_IF_ERROR(ReadBytes(begin, window_end, piece, memory));
      begin = window_end;
    }
    return absl::OkStatus();
  }

  // Reads [begin, end) and gives out what of it lies in the piece.
  absl::Status ReadBytes(int64_t begin, int64_t end, const Piece& piece, char* memory) {
    const absl::Span<char> data(memory, end - begin);
    WAYPOINT_RETURN_IF_ERROR(file_->Read(begin, data));
    reader_.bytes_read_ += end - begin;
    // Grain by grain where they are checked, so that what is copied is in the cache still.
    const int64_t step = piece.grains ? GrainOf(piece) : end - begin;
    for (int64_t part = begin; part < end; part += step) {
      const int64_t part_end = std::min(part + step, end);
      if (reader_.check_ && piece.grains == description_.checked_by_grain) {
        WAYPOINT_RETURN_IF_ERROR(reader_.check_(number_, part, data.subspan(part - begin, part_end - part)));
      }
      const int64_t from = std::max(part, piece.begin);
      CopyOut(from, std::min(part_end, piece.end), memory + (from - begin));
    }
    for (; piece.grains && published_ < owned_.size() && owned_[published_].begin < end; ++published_) {
      const Shared& one = owned_[published_];
      shared_->Publish(one.entry, data.subspan(one.begin - begin, description_.grain_bytes));
    }
    return absl::OkStatus();
  }

  absl::Status ReadShared() {
    const int64_t grain_bytes = description_.grain_bytes;
    for (; !guests_.empty(); guests_.pop_back()) {
      const Shared& one = guests_.back();
      const Piece grain = {one.begin, std::min(one.begin + grain_bytes, description_.file_bytes), true};
      const char* const data = shared_->Wait(one.entry);
      if (data == nullptr) {
        const BufferPool::Lease lease = reader_.scratch_.Get(grain.bytes());
        WAYPOINT_RETURN_IF_ERROR(ReadPiece(grain, lease.data()));
      } else {
        CopyOut(grain.begin, grain.end, const_cast<char*>(data));  // spans have no const
      }
      shared_->Leave(one.entry);
    }
    return absl::OkStatus();
  }

  void CopyOut(int64_t begin, int64_t end, char* data) const {
    size_t i = std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin();
    for (; i < runs_.size() && runs_[i].offset < end; ++i) {
      CopyPart(runs_[i], begin, end, data);
    }
  }

  RunReader& reader_;
  SharedChunks* const shared_;
  const absl::Span<const FileRun> runs_;
  const int64_t number_;
  const RunFile& description_;
  const int64_t window_bytes_;
  std::shared_ptr<const ReadableFile> file_;
  std::vector<int64_t> ends_;  // by run: the largest end so far
  std::vector<Piece> pieces_;  // ascending
  std::vector<Shared> owned_;  // ascending
  size_t published_ = 0;       // of owned_
  std::vector<Shared> guests_;
};

RunReader::RunReader(FileSystem& fs, std::vector<RunFile> files, const RunReaderOptions& options, Check check)
    : fs_(fs), files_(std::move(files)), options_(options), check_(std::move(check)), open_files_(files_.size()) {
  for (const RunFile& file : files_) {
    grain_bytes_ = std::max(grain_bytes_, file.grain_bytes);
    if (file.checked_by_grain) {
      max_shared_bytes_ = std::max({max_shared_bytes_, options_.window_bytes / 4, 2 * file.grain_bytes});
    }
  }
}

RunReader::~RunReader() = default;

int64_t RunReader::ScratchBytes(int64_t block_bytes) const {
  // One window at a time, widened to whole grains at both ends, and the chunks that all reads share.
  return std::min(block_bytes, options_.window_bytes) + 2 * std::max(grain_bytes_, kDigestChunkBytes) +
         max_shared_bytes_;
}

absl::StatusOr<std::shared_ptr<const ReadableFile>> RunReader::OpenFile(int64_t file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  OpenedFile& wanted = open_files_[file];
  if (wanted.file != nullptr) {
    recent_.splice(recent_.begin(), recent_, wanted.place);
    return wanted.file;
  }
  const RunFile& description = files_[file];
  WAYPOINT_ASSIGN_OR_RETURN(
      auto opened, description.open ? description.open() : fs_.OpenForRead(description.path, {.direct = true}));
  if (opened->size_bytes() != description.file_bytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat("\"", description.path, "\" has ", opened->size_bytes(), " bytes, had ",
                                  description.file_bytes, " when its header was read"));
  }
  // Jobs of many ranks have more files than a process may open.
  while (!recent_.empty() && static_cast<int64_t>(recent_.size()) >= options_.open_files) {
    open_files_[recent_.back()].file.reset();
    recent_.pop_back();
  }
  recent_.push_front(file);
  wanted.file = std::move(opened);
  wanted.place = recent_.begin();
  return wanted.file;
}

ChunkPlan RunReader::NewPlan() const {
  std::vector<ChunkPlan::File> files;
  for (const RunFile& file : files_) {
    files.push_back({file.file_bytes, file.checked_by_grain ? file.grain_bytes : 0});
  }
  return ChunkPlan(std::move(files));
}

void RunReader::Expect(ChunkPlan plan) {
  plan.Decide(options_.max_over_read);
  auto shared = std::make_shared<SharedChunks>(std::move(plan), max_shared_bytes_);
  const std::lock_guard<std::mutex> lock(mutex_);
  shared_ = std::move(shared);
}

absl::Status RunReader::Read(std::vector<FileRun> runs) {
  runs.erase(std::remove_if(runs.begin(), runs.end(), [](const FileRun& run) { return run.elements == 0; }),
             runs.end());
  std::sort(runs.begin(), runs.end(), ComesBefore);
  std::shared_ptr<SharedChunks> shared;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    shared = shared_;
  }
  int64_t bytes = 0;
  for (const FileRun& run : runs) {
    bytes += run.elements * run.element_bytes;
  }
  for (size_t first = 0; first < runs.size();) {
    size_t last = first + 1;
    while (last < runs.size() && runs[last].file == runs[first].file) {
      ++last;
    }
    FileRead read(*this, shared.get(), absl::MakeConstSpan(runs).subspan(first, last - first), bytes);
    WAYPOINT_RETURN_IF_ERROR(read.Run());
    first = last;
  }
  return absl::OkStatus();
}

}  // namespace waypoint
